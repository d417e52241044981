"""A training step of each method against the network passes that it needs, in one run.

    python benchmarks/methods.py            # all of them
    python benchmarks/methods.py can lcc
"""
import contextlib, sys
from measure import peak_bytes, time_fastest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce, one_hot
from cxr_workbench.core import Batch, create_method, seed_all


HOW = dict(device='cpu', dtype=None, size=64, rows=64, rounds=8)   # where and how everything here is measured


def list_settings():
    "Words for what differs from the common settings."
    words = [f'{HOW["size"]} px'] if HOW['size'] != 64 else []
    if HOW['dtype'] is not None: words.append(str(HOW['dtype']).removeprefix('torch.'))
    return ''.join(f', {word}' for word in words + [HOW['device']]*(HOW['device'] != 'cpu'))


@contextlib.contextmanager
def set_precision():
    "Autocast to the precision that is measured, where there is one."
    kind = HOW['device'].partition(':')[0]
    with torch.autocast(kind, HOW['dtype'], enabled=HOW['dtype'] is not None): yield


def make_batch(n=None, labels=14, size=None):
    "Images and labels that any method takes."
    n, size = n or HOW['rows'], size or HOW['size']
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(n, labels, generator=g) < .3).float()
    x = torch.rand(n, 1, size, size, generator=g)
    return Batch(x, y, torch.ones(n, labels, dtype=torch.bool), torch.arange(n)).to(HOW['device'])


def prepare_method(name, batch, **kw):
    "A method in training mode that has seen the labels."
    seed_all(0)
    method = create_method(name, size=HOW['size'], **kw).train()
    method.prepare(batch.y.cpu(), batch.known.cpu())
    return method.to(HOW['device'])


def compare(what, passes, step, wanted=1.15):
    "One line of the table; the two take turns, so that a busy machine slows both."
    what += list_settings()
    with set_precision(): best = time_fastest({'passes': passes, 'step': step}, HOW['rounds'], HOW['device'])
    a, b = best['passes'], best['step']
    return dict(what=what, reference=f'passes {a*1e3:.0f} ms', ours=f'{b*1e3:.0f} ms',
                ratio=b/a, wanted=f'<= {wanted:.2f}')


def build_pass(net, x, y):
    "The network forward and backward with a linear head on its pooled map and plain BCE."
    head = torch.nn.Linear(net.dim, y.shape[1]).to(y.device)
    return lambda: bce(head(net.features(x)), y).backward()


def measure_can(backbone='test_resnet', branch_b='test_convnext', **kw):
    "Both branches forward and backward with a linear head and plain BCE, against CAN's whole step."
    batch = make_batch()
    method = prepare_method('can', batch, backbone=backbone, branch_b=branch_b, **kw)
    x = method.weak(batch.x)
    branches = [build_pass(net, x, batch.y) for net in (method.backbone, method.backbone_b)]
    def run_passes():
        for branch in branches: branch()
    def run_step(): method.step(batch).loss.backward()
    names = backbone if backbone == branch_b else f'{backbone} + {branch_b}'
    settings = ''.join(f', {key}={value}' for key, value in kw.items())
    return compare(f'can step, {names}{settings}, B={len(x)}', run_passes, run_step)


def measure_can_rows(): return [measure_can(), measure_can('resnet18', 'resnet18'), measure_can(min_cells=8)]


def measure_acaa(backbone='test_resnet', labelled=16, **kw):
    "Weak pass, three attack passes, adversarial pass, Batch-Mamba, one backward, against ACAA's whole step."
    batch = make_batch()
    known = (batch.idx < labelled)[:, None].expand(len(batch.y), 14)
    few = batch._replace(known=known, y=batch.y*known)
    method = prepare_method('acaa', batch, preset='tiny', backbone=backbone, tau_pos=.5, tau_neg=.499, **kw)
    x, y, net, head = method.weak(batch.x), batch.y, method.backbone, method.head
    rest = y[labelled:]
    def attack():
        x_adv = x[labelled:]
        method.eval()
        for _ in range(3):
            x_adv = x_adv.detach().requires_grad_()
            x_adv = x_adv + 1e-3*torch.autograd.grad(bce(head(net.features(x_adv)), rest), x_adv)[0]
        method.train()
        return x_adv.detach()
    def run_passes():
        z = net.features(x)
        z_adv = net.features(attack())
        mixed = method.mixer(torch.cat([z, z_adv]))
        clean, pushed, drawn = bce(head(z), y), bce(head(z_adv), rest), bce(head(z[labelled:]), rest)
        (clean + pushed + drawn + bce(head(mixed), torch.cat([y, rest]))).backward()
    def run_step(): method.step(few).loss.backward()
    return compare(f'acaa step, {backbone}, {labelled} labelled of B={len(x)}, T=3', run_passes, run_step)


def measure_acaa_rows(): return [measure_acaa(), measure_acaa('resnet18')]


def measure_mpc(backbone='test_resnet', **kw):
    "Both views through the network at once, the batch transformer, four losses, against MPC's whole step."
    batch = make_batch()
    y = one_hot(batch.y.argmax(1), 14).float()
    few = batch._replace(y=y, known=y.bool())
    method = prepare_method('mpc', few, preset='tiny', backbone=backbone, **kw)
    x, net, head = torch.cat([batch.x, batch.x]), method.backbone, method.head
    def run_passes():
        z = net.features(x)
        weak, strong, mixed = *z.chunk(2), method.mixer(z)
        views = bce(head(weak), y) + bce(head(strong), y) + bce(head(weak), y)
        (views + bce(head(mixed), y.repeat(2, 1))).backward()
    def run_step(): method.step(few, progress=.5).loss.backward()
    return compare(f'mpc step, {backbone}, B={len(y)}', run_passes, run_step)


def measure_mpc_rows(): return [measure_mpc(), measure_mpc('resnet18')]


def measure_lcc(backbone='test_resnet', preset='tiny', **kw):
    "The network with a linear head, against LCC's whole step: label features, both correlations, three losses."
    batch = make_batch()
    method = prepare_method('lcc', batch, preset=preset, backbone=backbone, **kw)
    run_passes = build_pass(method.backbone, method.weak(batch.x), batch.y)
    def run_step(): method.step(batch).loss.backward()
    wide = '' if preset else ', 512 wide'
    return compare(f'lcc step, {backbone}{wide}, B={len(batch.y)}', run_passes, run_step)


def measure_contrast(n=64, labels=14, share=.1, width=128):
    "MB that the guided contrast allocates at its worst moment, forward and backward; `M` units are present."
    from cxr_workbench.methods.lcc import label_supcon
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(n, labels, generator=g) < share).float()
    corr = torch.rand(labels, labels, generator=g)
    u = torch.randn(n, labels, width, generator=g).requires_grad_()
    contrast = lambda: label_supcon(u, y, corr).backward()
    contrast()
    most, M = peak_bytes(contrast), int(y.sum())
    return dict(what=f'lcc contrast, B={n}, C={labels}, {share:.0%} present: M={M} units',
                reference=f'one M x M matrix {4*M*M/1e6:.2f} MB', ours=f'{most/1e6:.2f} MB',
                ratio=most/(4*M*M), wanted='')


def measure_lcc_rows():
    sizes = (64, 14), (256, 14), (64, 56), (64, 14, 1.)
    return [measure_lcc(), measure_lcc('resnet18', None), *(measure_contrast(*size) for size in sizes)]


def measure_trcgl(backbone='test_resnet', **kw):
    "The network with a linear head, against TRCGL-Net's second stage: gate, attention, label graph, balanced margins."
    batch = make_batch()
    method = prepare_method('trcgl', batch, preset='tiny', backbone=backbone, **kw)
    run_passes = build_pass(method.backbone, method.weak(batch.x), batch.y)
    def run_step(): method.step(batch, stage=1).loss.backward()
    return compare(f'trcgl step, {backbone}, B={len(batch.y)}', run_passes, run_step)


def measure_label_term():
    "Predictions with the label term, which is kept between batches at inference, against the bare network."
    batch = make_batch()
    method = prepare_method('trcgl', batch, preset='tiny').eval()
    @torch.no_grad()
    def predict(): method(batch.x)
    @torch.no_grad()
    def run_passes(): method.backbone.features(batch.x)
    return compare('trcgl prediction, test_resnet, B=64', run_passes, predict)


def measure_trcgl_rows(): return [measure_trcgl(), measure_trcgl('resnet18'), measure_label_term()]


# name -> function giving rows
METHODS = {
    'can': measure_can_rows, 'lcc': measure_lcc_rows, 'mpc': measure_mpc_rows,
    'acaa': measure_acaa_rows, 'trcgl': measure_trcgl_rows}


def measure_rows(): return [line for make in METHODS.values() for line in make()]


if __name__ == '__main__':
    for name in sys.argv[1:] or METHODS:
        for line in METHODS[name](): print(line)
