"""GNI-FGSM with T steps against T bare passes forward and back to the input, in one run; at most 1.10."""
import argparse, time
import torch
from torch.nn import functional as F
from cxr_workbench.methods.acaa import FAMILY, attack_objective, gni_fgsm


def bare(net, x, y, mask, steps):
    "As many forward passes, and backward passes to the input, as an attack of that many steps cannot do without."
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = (F.binary_cross_entropy_with_logits(net(x), y, reduction='none')*mask).sum()
        x = x - 1e-3*torch.autograd.grad(loss, x)[0]
    return x


def finish(x):
    "Wait for the device."
    if x.is_cuda: torch.cuda.synchronize()


def rows(size=64, batch=32, steps=3, rounds=30, names=('test_resnet', 'resnet18'), members=('GNI-FGSM', 'I-FGSM'), device=None):
    "Ratios of the fastest rounds; the two take turns, so that a busy machine slows both."
    import timm
    device, out = device or ('cuda' if torch.cuda.is_available() else 'cpu'), []
    for name in names:
        torch.manual_seed(0)
        net, x = timm.create_model(name, num_classes=14, in_chans=1).to(device).eval(), torch.rand(batch, 1, size, size, device=device)
        y, mask = (torch.rand(2, batch, 14, device=device) < .5).float()
        tried = {'bare': lambda: bare(net, x, y, mask, steps)}
        for member in members: tried[member] = lambda m=member: gni_fgsm(x, attack_objective(net, y, mask), **{'steps': steps, **FAMILY[m]})
        best = {}
        for _ in range(rounds):
            for which, attack in tried.items():
                finish(x); start = time.perf_counter()
                finish(attack())
                best[which] = min(best.get(which, 1e9), time.perf_counter() - start)
        out += [dict(what=f'{m}, T={steps}, {name}, {size} px, B={batch}, {device}', reference=f'{steps} bare passes {best["bare"]*1e3:.1f} ms', ours=f'{best[m]*1e3:.1f} ms',
                     ratio=best[m]/best['bare'], wanted='<= 1.10') for m in members]
    return out


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in dict(size=64, batch=32, steps=3, rounds=30).items(): parser.add_argument(f'--{name}', type=int, default=default)
    for row in rows(**vars(parser.parse_args())): print(row)
