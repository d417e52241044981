"The selective scan against definitions written here, and the mixer over the batch."
import math, re
import pytest, torch
from torch import nn
from torch.nn import functional as F
from hypothesis import given, settings, strategies as st
from cxr_workbench import scan as S
from cxr_workbench.methods.acaa import BatchMamba
from cxr_workbench.scan import MambaBlock, linear_scan, scan_by_doubling, selective_scan

NAMES = ['u', 'delta', 'A', 'B', 'C', 'D']


def definition(u, delta, A, B, C, D=None):
    "The recurrence with one number at a time, per sequence and channel."
    rows = []
    for s in range(u.shape[0]):
        channels = []
        for c in range(u.shape[2]):
            h, out = torch.zeros_like(A[c]), []
            for t in range(u.shape[1]):
                step, x = delta[s, t, c], u[s, t, c]
                h = torch.exp(step*A[c])*h + step*B[s, t]*x
                out.append(torch.dot(C[s, t], h) + (0 if D is None else D[c]*x))
            channels.append(torch.stack(out))
        rows.append(torch.stack(channels, -1))
    return torch.stack(rows)


def loop(u, delta, A, B, C, D):
    "The same over all channels at once: the loop that autograd differentiates."
    decay = torch.exp(torch.einsum('bld,dn->bldn', delta, A))
    write = torch.einsum('bld,bln,bld->bldn', delta, B, u)
    h, out = torch.zeros_like(decay[:, 0]), []
    for t in range(u.shape[1]):
        h = decay[:, t]*h + write[:, t]
        out.append(torch.einsum('bdn,bn->bd', h, C[:, t]))
    return torch.stack(out, 1) + D*u


def tensors(b=2, L=9, d=5, N=3, dtype=torch.float64, seed=0, step=1.):
    g = torch.Generator().manual_seed(seed)
    def draw(*shape): return torch.randn(*shape, generator=g, dtype=torch.float64)

    u, delta = draw(b, L, d), step*F.softplus(draw(b, L, d))
    A, B, C = -draw(d, N).exp(), draw(b, L, N), draw(b, L, N)
    D = draw(d)
    return [t.to(dtype).requires_grad_() for t in (u, delta, A, B, C, D)]


def outcome(scan, args, seed=1):
    "The output and every gradient of one random projection of it."
    y = scan(*args)
    along = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [a for a in args if a is not None], along)]


def differences(these, those):
    return [(p.double() - q.double()).abs().max() for p, q in zip(these, those, strict=True)]


def worst(these, those): return float(max(differences(these, those)))


def worst_relative(these, those):
    largest = [q.double().abs().max().clamp(min=1e-30) for q in those]
    return float(max(d/most for d, most in zip(differences(these, those), largest)))


def in_double(args): return [t.detach().double().requires_grad_() for t in args]


def set_doubling(patch, doubling):
    patch.setattr(S, 'linear_scan', lambda a, x, reverse=False: linear_scan(a, x, reverse, doubling=doubling))


@pytest.fixture(params=['loop', 'doubling'])
def way(request, monkeypatch):
    "Both forms of the recurrence: the CPU's and the one of accelerators."
    if request.param == 'doubling': set_doubling(monkeypatch, True)
    return request.param


# ---- against definitions ----

@settings(max_examples=25)
@given(
    b=st.integers(1, 3), L=st.integers(1, 7),
    d=st.integers(1, 4), N=st.integers(1, 4),
    seed=st.integers(0, 99), skip=st.booleans(), doubling=st.booleans())
def test_equals_the_definition(b, L, d, N, seed, skip, doubling):
    args = tensors(b, L, d, N, seed=seed)
    if not skip: args = args[:5]
    with pytest.MonkeyPatch.context() as patch:
        set_doubling(patch, doubling)
        ours = outcome(selective_scan, args)
    assert worst(ours, outcome(definition, args)) < 1e-9


@pytest.mark.parametrize('shape', [
    (1, 64, 32, 16), (3, 33, 8, 4), (1, 256, 8, 16)])
def test_equals_the_loop_at_length(way, shape):
    args = tensors(*shape)
    assert worst(outcome(selective_scan, args), outcome(loop, args)) < 1e-9


@pytest.mark.parametrize('shape', [(1, 64, 64, 16), (2, 100, 16, 8)])
def test_float32(way, shape):
    single = tensors(*shape, dtype=torch.float32)
    ours = outcome(selective_scan, single)
    assert all(t.dtype == torch.float32 for t in ours)
    assert worst_relative(ours, outcome(loop, single)) < 1e-5
    assert worst_relative(ours, outcome(loop, in_double(single))) < 1e-5


@pytest.mark.parametrize('dtype, bound', [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_mambapy_agrees(way, dtype, bound):
    theirs = pytest.importorskip('mambapy.mamba').MambaBlock.selective_scan
    args = tensors(2, 64, 24, 16, dtype=dtype)
    assert worst_relative(outcome(selective_scan, args), outcome(lambda *a: theirs(None, *a), args)) < bound


@pytest.mark.parametrize('shape', [(2, 5, 3, 2), (1, 1, 2, 3)])
def test_gradcheck(way, shape):
    args = tensors(*shape)
    for given in (args, args[:5]): assert torch.autograd.gradcheck(selective_scan, given)


@pytest.mark.parametrize('step', [1e-6, 1e3])
def test_extreme_steps_stay_finite(way, step):
    "Decays that round to one or to zero; a form that divides by products of them would overflow."
    args = tensors(1, 128, 4, 4, dtype=torch.float32, step=step)
    ours = outcome(selective_scan, args)
    assert all(t.isfinite().all() for t in ours)
    assert worst_relative(ours, outcome(loop, in_double(args))) < 1e-4


@settings(max_examples=30)
@given(L=st.integers(1, 40), reverse=st.booleans(), seed=st.integers(0, 99))
def test_doubling_is_the_loop(L, reverse, seed):
    g = torch.Generator().manual_seed(seed)
    a, x = (torch.rand(L, 2, 3, generator=g, dtype=torch.float64) for _ in range(2))
    by_doubling, by_loop = (linear_scan(a, x.clone(), reverse, doubling) for doubling in (True, False))
    assert torch.allclose(by_doubling, by_loop, atol=1e-12)


def test_doubling_takes_logarithmically_many_rounds(monkeypatch):
    calls, cat = [], torch.cat
    monkeypatch.setattr(S.torch, 'cat', lambda *a, **kw: calls.append(1) or cat(*a, **kw))
    scan_by_doubling(torch.rand(64, 2), torch.rand(64, 2))
    assert len(calls) == 2*6


# ---- how it is called ----

def test_other_layouts(way):
    args = tensors(3, 8, 4, 2)
    transposed = [t.detach().transpose(0, -1).contiguous() for t in args]
    strided = [t.transpose(0, -1).requires_grad_() for t in transposed]
    assert not strided[0].is_contiguous()
    assert worst(outcome(selective_scan, strided), outcome(selective_scan, args)) < 1e-12
    y = selective_scan(*args)
    summed = torch.autograd.grad(y.sum(), args, retain_graph=True)   # an expanded gradient
    ones = torch.autograd.grad(y, args, torch.ones_like(y))
    assert worst(summed, ones) < 1e-12


@pytest.mark.parametrize('single', range(6))
def test_a_single_gradient(single):
    args = tensors()
    every = torch.autograd.grad(selective_scan(*args).sum(), args)
    some = [t if i == single else t.detach() for i, t in enumerate(args)]
    gradient, = torch.autograd.grad(selective_scan(*some).sum(), some[single])
    assert torch.equal(gradient, every[single])


def test_arguments_are_left_alone_and_backward_runs_twice(way):
    args = tensors()
    before = [t.detach().clone() for t in args]
    y = selective_scan(*args)
    kept = y.detach().clone()
    first = torch.autograd.grad(y.sum(), args, retain_graph=True)
    assert worst(torch.autograd.grad(y.sum(), args), first) == 0
    assert torch.equal(y, kept) and worst([t.detach() for t in args], before) == 0
    assert not selective_scan(*[t.detach() for t in args]).requires_grad


def test_second_derivatives_are_refused():
    args = tensors()
    total = selective_scan(*args).sum()
    with pytest.raises(RuntimeError, match='differentiable once'):
        torch.autograd.grad(total, args[0], create_graph=True)


def test_autocast_computes_in_float32():
    args = tensors(1, 64, 16, 16, dtype=torch.float32)
    plain = outcome(selective_scan, args)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = outcome(selective_scan, args)    # forward and backward inside
    assert mixed[0].dtype == torch.float32 and worst(mixed, plain) == 0
    halves = [t.detach().bfloat16().requires_grad_() for t in args]
    rounded = [t.detach().float().requires_grad_() for t in halves]
    y, exact = selective_scan(*halves), selective_scan(*rounded)
    assert y.dtype == torch.bfloat16 and torch.equal(y, exact.bfloat16())
    y.sum().backward()
    assert all(t.grad.dtype == torch.bfloat16 and t.grad.isfinite().all() for t in halves)


@pytest.mark.parametrize('name, shape', [
    ('u', (2, 9)), ('u', (2, 0, 5)), ('delta', (2, 8, 5)),
    ('A', (5,)), ('A', (4, 3)),
    ('B', (2, 9, 4)), ('B', (1, 9, 3)),
    ('C', (2, 9, 2)), ('C', (2, 9)),
    ('D', (4,)), ('D', (5, 1))])
def test_wrong_shapes_are_named(name, shape):
    args = dict(zip(NAMES, tensors(), strict=True))
    args[name] = torch.rand(shape, dtype=torch.float64)
    seen = re.escape(f'{name} {shape}')
    with pytest.raises(ValueError, match=f'shapes do not fit:.*{seen}'): selective_scan(**args)


def test_a_wrong_shape_says_what_was_wanted():
    args = tensors()
    wanted = r'B \(2, 7, 3\).*wanted are .*B \(b, L, N\)'
    with pytest.raises(ValueError, match=wanted): selective_scan(*args[:3], args[3][:, :7], *args[4:])
    with pytest.raises(ValueError, match='A is complex'): selective_scan(*args[:2], args[2]*1j, *args[3:])
    empty = [t[:, :0] if t.ndim == 3 else t for t in args]
    with pytest.raises(ValueError, match='nothing to scan'): selective_scan(*empty)


# ---- what it reduces to ----

def test_reductions():
    u, one = tensors(1, 20, 1, 1)[0].detach(), torch.ones(1, 20, 1, dtype=torch.float64)
    rate = torch.tensor([[-.4]], dtype=torch.float64)
    lags = torch.arange(20.)[:, None] - torch.arange(20.)
    kernel = torch.exp(-.4*.5*lags.clamp(min=0)).tril().double()*.5
    average = selective_scan(u, .5*one, rate, one, one)[0]              # an exponential moving average
    assert torch.allclose(average, kernel @ u[0], atol=1e-7)
    without_memory = selective_scan(u, .5*one, rate*1e5, one, 3*one)
    assert torch.allclose(without_memory, 1.5*u, atol=1e-12)
    all_memory = selective_scan(u, one, rate*1e-9, one, one)
    assert torch.allclose(all_memory, u.cumsum(1), atol=1e-6)
    passing_by = selective_scan(u, one, rate, one, 0*one, torch.ones(1, dtype=torch.float64))
    assert torch.equal(passing_by, u)


def test_causal(way):
    args = [t.detach() for t in tensors(1, 12, 4, 3)]
    before = selective_scan(*args)
    for i in (0, 1, 3, 4): args[i][:, 7:] += 1
    after = selective_scan(*args)
    assert torch.allclose(after[:, :7], before[:, :7], atol=1e-14, rtol=0)
    assert not torch.allclose(after[:, 7:], before[:, 7:])


# ---- the mixer ----

def build_mixer(dim=12, seed=0, **kw):
    torch.manual_seed(seed)
    mixer = BatchMamba(dim, **{'dropout': 0., **kw})
    for layer in mixer.last_layers(): nn.init.normal_(layer.weight, std=.5)
    return mixer


@pytest.mark.parametrize('kw', [
    {}, dict(inner=5), dict(bidirectional=False), dict(permute=False),
    dict(conv=1, state=1, expand=1)])
@pytest.mark.parametrize('B', [1, 2, 9])
def test_identity_at_initialisation(kw, B):
    mixer, z = BatchMamba(12, **kw), torch.randn(B, 12)
    assert torch.equal(mixer(z), z) and torch.equal(mixer.eval()(z), z)
    BatchMamba(12, **kw)(z).square().sum().backward()


def test_it_starts_to_learn():
    "The zero projection gets a gradient, and after one step so does everything else."
    torch.manual_seed(0)
    mixer, z = BatchMamba(12, dropout=0.), torch.randn(8, 12)
    optimiser = torch.optim.SGD(mixer.parameters(), lr=.1)
    for _ in range(2):
        optimiser.zero_grad()
        (mixer(z)[:, 0]*z[:, 1]).sum().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mixer.parameters())


def test_wide_features_pass_through_512():
    mixer = BatchMamba(600)
    assert (mixer.enter.out_features, mixer.leave.in_features) == (512, 512)
    assert isinstance(BatchMamba(512).enter, nn.Identity)
    assert BatchMamba(48, inner=16).blocks[0].in_proj.in_features == 16


def influence(mixer, z):
    z = z.clone().requires_grad_()
    scores = (mixer(z) - z).sum(1)
    return torch.stack([torch.autograd.grad(score, z, retain_graph=True)[0].abs().sum(1) for score in scores])


def test_one_direction_is_causal_and_two_are_not():
    z = torch.randn(10, 12, generator=torch.Generator().manual_seed(5))
    one, two = (build_mixer(bidirectional=b, permute=False).train() for b in (False, True))
    later = z.clone()
    later[6:] = later[6:].flip(1)
    assert torch.allclose(one(later)[:6], one(z)[:6], atol=1e-6, rtol=0)
    assert not torch.allclose(one(later)[6:], one(z)[6:])
    assert not torch.allclose(two(later)[:6], two(z)[:6], atol=1e-4)
    assert (influence(one, z).triu(1) == 0).all() and (influence(two, z) > 0).all()


def test_permutation():
    z = torch.randn(10, 12, generator=torch.Generator().manual_seed(5))
    mixer = build_mixer()
    torch.manual_seed(1)
    first, second = mixer(z), mixer(z)
    torch.manual_seed(1)
    again = mixer(z)
    assert torch.equal(first, again) and not torch.equal(first, second)   # a fresh order each step
    assert torch.equal(mixer.eval()(z), mixer(z))
    assert torch.equal(mixer(z), build_mixer(permute=False).train()(z))
    torch.manual_seed(1)
    order = torch.randperm(10)
    assert torch.allclose(mixer(z[order])[order.argsort()], first, atol=1e-6)   # back in the order of what went in


def test_dropout_acts_on_what_is_added():
    z = torch.randn(10, 12)
    mixer = build_mixer(dropout=.999999)
    assert torch.equal(mixer(z), z) and not torch.equal(mixer.eval()(z), z)


def test_block_starts_as_mamba():
    block = MambaBlock(48, state=6)
    assert block.rank == 3
    assert torch.allclose(-block.A_log.exp(), -torch.arange(1., 7).expand(96, 6))
    steps = F.softplus(block.dt_proj.bias)
    assert steps.min() > .9e-3 and steps.max() < .11
    assert .3 < (steps < .01).float().mean() < .7
    assert MambaBlock(40).rank == math.ceil(40/16)


def test_mixed_precision():
    mixer, z = build_mixer(permute=False), torch.randn(10, 12)
    with torch.autocast('cpu', dtype=torch.bfloat16): y = mixer(z)
    assert y.dtype == torch.float32 and torch.allclose(y, mixer(z), atol=.1)
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize('shape', [(3, 11), (12,), (1, 3, 12), (0, 12)])
def test_wrong_features_are_named(shape):
    z = torch.zeros(shape)
    with pytest.raises(ValueError, match=r'\(B, D\) with B >= 1 and D=12'): BatchMamba(12)(z)


@pytest.mark.parametrize('name', ['dim', 'inner', 'state', 'conv', 'expand'])
def test_wrong_sizes_are_named(name):
    with pytest.raises(ValueError, match='at least 1'): BatchMamba(**{'dim': 12, name: 0})


def test_saved_and_loaded(tmp_path):
    mixer, other, z = build_mixer().eval(), BatchMamba(12).eval(), torch.randn(4, 12)
    torch.save(mixer.state_dict(), tmp_path/'mixer.pt')
    other.load_state_dict(torch.load(tmp_path/'mixer.pt', weights_only=True))
    assert torch.equal(mixer(z), other(z))


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_on_a_gpu_without_a_loop_over_samples():
    args = [t.detach().cuda().requires_grad_() for t in tensors(1, 64, 32, 16)]
    along = torch.randn(1, 64, 32, dtype=torch.float64, device='cuda')
    def run(scan):
        y = scan(*args)
        return [y, *torch.autograd.grad(y, args, along)]

    assert worst(run(selective_scan), run(loop)) < 1e-9
    from torch.profiler import ProfilerActivity, profile
    def launches(L):
        args = [t.detach().cuda() for t in tensors(1, L, 32, 16)]
        with profile(activities=[ProfilerActivity.CPU]) as seen: selective_scan(*args)
        return sum(e.count for e in seen.key_averages() if 'LaunchKernel' in e.key)
    assert launches(256) - launches(64) <= 16    # two more rounds of doubling, not 192 more steps
