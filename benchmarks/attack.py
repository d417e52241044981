"""GNI-FGSM with T steps against T bare passes forward and back to the input, in one run; at most 1.10."""
import argparse
from measure import time_fastest
import torch
from torch.nn import functional as F
from cxr_workbench.attacks import FAMILY, attack_objective, gni_fgsm


def run_bare_passes(net, x, y, mask, steps):
    "As many forward passes, and backward passes to the input, as an attack of that many steps cannot do without."
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = (F.binary_cross_entropy_with_logits(net(x), y, reduction='none')*mask).sum()
        x = x - 1e-3*torch.autograd.grad(loss, x)[0]
    return x


def build_calls(name, size, batch, steps, members, device):
    "The bare passes and each member of the family, as calls without arguments, on one network and one batch."
    import timm
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=14, in_chans=1).to(device).eval()
    x = torch.rand(batch, 1, size, size, device=device)
    y, mask = (torch.rand(2, batch, 14, device=device) < .5).float()
    def build_attack(member):
        settings = {'steps': steps, **FAMILY[member]}
        return lambda: gni_fgsm(x, attack_objective(net, y, mask), **settings)
    attacks = {member: build_attack(member) for member in members}
    return {'bare': lambda: run_bare_passes(net, x, y, mask, steps), **attacks}


def measure_rows(size=64, batch=32, steps=3, rounds=30, names=('test_resnet', 'resnet18'),
         members=('GNI-FGSM', 'I-FGSM'), device=None):
    "Ratios of the fastest rounds; the two take turns, so that a busy machine slows both."
    device, table = device or ('cuda' if torch.cuda.is_available() else 'cpu'), []
    for name in names:
        best = time_fastest(build_calls(name, size, batch, steps, members, device), rounds, device)
        for member in members:
            table.append(dict(
                what=f'{member}, T={steps}, {name}, {size} px, B={batch}, {device}',
                reference=f'{steps} bare passes {best["bare"]*1e3:.1f} ms', ours=f'{best[member]*1e3:.1f} ms',
                ratio=best[member]/best['bare'], wanted='<= 1.10'))
    return table


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in dict(size=64, batch=32, steps=3, rounds=30).items():
        parser.add_argument(f'--{name}', type=int, default=default)
    for row in measure_rows(**vars(parser.parse_args())): print(row)
