"""A training step of each method against the network passes that it needs, in one run: python benchmarks/methods.py [names]."""
import sys, time
import torch
from cxr_workbench.core import Batch, create_method, seed_all


def random_batch(n=64, labels=14, size=64):
    "Images and labels that any method takes."
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(n, labels, generator=g) < .3).float()
    return Batch(torch.rand(n, 1, size, size, generator=g), y, torch.ones(n, labels, dtype=torch.bool), torch.arange(n))


def interleaved(reference, ours, rounds=8):
    "Seconds of the fastest call of each, taken in turns so that a busy machine slows both."
    best = [float('inf')]*2
    for _ in range(rounds):
        for i, call in enumerate((reference, ours)):
            start = time.perf_counter(); call(); best[i] = min(best[i], time.perf_counter() - start)
    return best


def row(what, reference, ours, wanted=1.15):
    "One line of the table."
    a, b = interleaved(reference, ours)
    return dict(what=what, reference=f'passes {a*1e3:.0f} ms', ours=f'{b*1e3:.0f} ms', ratio=b/a, wanted=f'<= {wanted:.2f}')


def can(backbone='test_resnet', branch_b='test_convnext', **kw):
    "Both branches forward and backward with a linear head and plain BCE, against CAN's whole step."
    batch = random_batch()
    seed_all(0)
    method = create_method('can', backbone=backbone, branch_b=branch_b, **kw).train()
    method.prepare(batch.y, batch.known)
    heads = [torch.nn.Linear(net.dim, 14) for net in (method.backbone, method.backbone_b)]
    x = method.weak(batch.x)
    def passes():
        for net, head in zip((method.backbone, method.backbone_b), heads):
            torch.nn.functional.binary_cross_entropy_with_logits(head(net.features(x)), batch.y).backward()
    def step(): method.step(batch).loss.backward()
    names = backbone if backbone == branch_b else f'{backbone} + {branch_b}'
    return row(f'can step, {names}{"".join(f", {k}={v}" for k, v in kw.items())}, B=64', passes, step)


def can_rows(): return [can(), can('resnet18', 'resnet18'), can(min_cells=8)]


def acaa(backbone='test_resnet', labelled=16, **kw):
    "Weak pass, three attack passes, adversarial pass, Batch-Mamba, one backward, against ACAA's whole step."
    bce = lambda logits, y: torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
    batch = random_batch()
    known = (torch.arange(64) < labelled)[:, None].expand(64, 14)
    few = batch._replace(known=known, y=batch.y*known)
    seed_all(0)
    method = create_method('acaa', preset='tiny', backbone=backbone, tau_pos=.5, tau_neg=.499, **kw).train()
    method.prepare(batch.y, batch.known)
    x, y, net, head = method.weak(batch.x), batch.y, method.backbone, method.head
    def passes():
        z, x_adv = net.features(x), x[labelled:]
        method.eval()
        for _ in range(3):
            x_adv = x_adv.detach().requires_grad_()
            x_adv = x_adv + 1e-3*torch.autograd.grad(bce(head(net.features(x_adv)), y[labelled:]), x_adv)[0]
        method.train()
        z_adv = net.features(x_adv.detach())
        mixed = method.batch_mamba(torch.cat([z, z_adv]))
        (bce(head(z), y) + bce(head(z_adv), y[labelled:]) + bce(head(z[labelled:]), y[labelled:]) + bce(head(mixed), torch.cat([y, y[labelled:]]))).backward()
    def step(): method.step(few).loss.backward()
    return row(f'acaa step, {backbone}, {labelled} labelled of B=64, T=3', passes, step)


def acaa_rows(): return [acaa(), acaa('resnet18')]


def mpc(backbone='test_resnet', **kw):
    "Weak and strong view through the network at once, the batch transformer, four losses and one backward, against MPC's whole step with its views."
    bce = lambda logits, y: torch.nn.functional.binary_cross_entropy_with_logits(logits, y)
    batch = random_batch()
    y = torch.nn.functional.one_hot(batch.y.argmax(1), 14).float()
    few = batch._replace(y=y, known=y.bool())
    seed_all(0)
    method = create_method('mpc', preset='tiny', backbone=backbone, **kw).train()
    method.prepare(few.y, few.known)
    x, net, head = torch.cat([batch.x, batch.x]), method.backbone, method.head
    def passes():
        z = net.features(x)
        mixed = method.mixer(z)
        (bce(head(z[:64]), y) + bce(head(z[64:]), y) + bce(head(z[:64]), y) + bce(head(mixed), y.repeat(2, 1))).backward()
    def step(): method.step(few, progress=.5).loss.backward()
    return row(f'mpc step, {backbone}, B=64', passes, step)


def mpc_rows(): return [mpc(), mpc('resnet18')]


def lcc(backbone='test_resnet', preset='tiny', **kw):
    "The network forward and backward with a linear head on its pooled map and plain BCE, against LCC's whole step: label features, both correlations, three losses."
    batch = random_batch()
    seed_all(0)
    method = create_method('lcc', preset=preset, backbone=backbone, **kw).train()
    method.prepare(batch.y, batch.known)
    net, x = method.backbone, method.weak(batch.x)
    head = torch.nn.Linear(net.dim, 14)
    def passes(): torch.nn.functional.binary_cross_entropy_with_logits(head(net.features(x)), batch.y).backward()
    def step(): method.step(batch).loss.backward()
    return row(f'lcc step, {backbone}{"" if preset else ", 512 wide"}, B=64', passes, step)


def contrast_memory(n=64, labels=14, share=.1, width=128):
    "MB that the guided contrast allocates at its worst moment, forward and backward, beside what it is given; `M` units are present."
    from scan import memory_events
    from torch.profiler import ProfilerActivity, profile
    from cxr_workbench.methods.lcc import label_supcon
    g = torch.Generator().manual_seed(0)
    y, corr = (torch.rand(n, labels, generator=g) < share).float(), torch.rand(labels, labels, generator=g)
    u = torch.randn(n, labels, width, generator=g).requires_grad_()
    label_supcon(u, y, corr).backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: label_supcon(u, y, corr).backward()
    held = most = 0
    for _, gained in sorted(memory_events(seen)): held += gained; most = max(most, held)
    M = int(y.sum())
    return dict(what=f'lcc contrast, B={n}, C={labels}, {share:.0%} present: M={M} units', reference=f'one M x M matrix {4*M*M/1e6:.2f} MB', ours=f'{most/1e6:.2f} MB', ratio=most/(4*M*M), wanted='')


def lcc_rows(): return [lcc(), lcc('resnet18', None), *(contrast_memory(*given) for given in ((64, 14), (256, 14), (64, 56), (64, 14, 1.)))]


def trcgl(backbone='test_resnet', **kw):
    "The network forward and backward with a linear head on its pooled map and plain BCE, against TRCGL-Net's step of the second stage: gate, class attention, label graph, balanced margins."
    batch = random_batch()
    seed_all(0)
    method = create_method('trcgl', preset='tiny', backbone=backbone, **kw).train()
    method.prepare(batch.y, batch.known)
    net, x = method.backbone, method.weak(batch.x)
    head = torch.nn.Linear(net.dim, 14)
    def passes(): torch.nn.functional.binary_cross_entropy_with_logits(head(net.features(x)), batch.y).backward()
    def step(): method.step(batch, stage=1).loss.backward()
    return row(f'trcgl step, {backbone}, B=64', passes, step)


def label_term():
    "Predictions with the label term, which is kept between batches at inference, against the bare network."
    batch = random_batch()
    seed_all(0)
    method = create_method('trcgl', preset='tiny').train()
    method.prepare(batch.y, batch.known)
    method.eval()
    @torch.no_grad()
    def kept(): method(batch.x)
    @torch.no_grad()
    def plain(): method.backbone.features(batch.x)
    return row('trcgl prediction, test_resnet, B=64', plain, kept)


def trcgl_rows(): return [trcgl(), trcgl('resnet18'), label_term()]


METHODS = {'can': can_rows, 'lcc': lcc_rows, 'mpc': mpc_rows, 'acaa': acaa_rows, 'trcgl': trcgl_rows}  # name -> function giving rows


def rows(): return [line for make in METHODS.values() for line in make()]


if __name__ == '__main__':
    for name in sys.argv[1:] or METHODS:
        for line in METHODS[name](): print(line)
