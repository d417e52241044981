"TRCGL-Net's classifier: what its page does not assert, against loops written here."
import copy, json, math
import numpy as np, pytest, torch
from torch.nn import functional as F
from cxr_workbench.core import Batch, create_method, seed_all
from cxr_workbench.data import Repeat, batch_sampler, from_arrays, split_by_patient
from cxr_workbench.methods.trcgl import GRAPHS, LADDER, ChannelClassAttention, LabelGCN
from cxr_workbench.methods.trcgl import label_adjacency, margin_balanced_loss, repeat_factors, scale_rows
from cxr_workbench.methods.trcgl_losses import LOSSES, class_balance, class_margins
from cxr_workbench.methods.trcgl_losses import distribution_balanced_loss, weighted_asymmetric

NAMES = ['Edema', 'Fracture', 'Hernia', 'Mass', 'Nodule']


def table(n=60, C=5, seed=0, share=.7):
    g = np.random.default_rng(seed)
    y = g.random((n, C)) < np.linspace(.6, .1, C)
    return y.astype(float), g.random((n, C)) < share


def small(**kw):
    seed_all(0)
    return create_method('trcgl', labels=kw.pop('labels', NAMES), size=32, preset='tiny', **kw)


def batch(n=12, C=5, seed=0, synthetic=None):
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, C, generator=g) < .4).float()
    x = torch.rand(n, 1, 32, 32, generator=g)
    return Batch(x, y, torch.ones_like(y, dtype=torch.bool), torch.arange(n), synthetic)


def prepared(b=None, **kw):
    method, b = small(**kw), b or batch()
    method.prepare(b.y, b.known)
    return method


# ---- the graph ----

def weights_by_loops(y, known, smooth, threshold):
    "A of the page before it is normalised, pair by pair."
    n, C = y.shape
    def P(i, j):
        both = sum(y[r, i]*known[r, i]*y[r, j]*known[r, j] for r in range(n))
        given = sum(y[r, i]*known[r, i]*known[r, j] for r in range(n))
        return both/(given + smooth)
    A = np.zeros((C, C))
    for i in range(C):
        for j in range(C):
            p = 1. if i == j else (P(i, j) + P(j, i))/2
            A[i, j] = (p if p >= threshold else 0.) + (i == j)
    return A


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('smooth, threshold', [(1., .02), (5., .3), (0., 0.)])
def test_adjacency_equals_the_loop_and_its_top_eigenvector_is_the_root_of_the_degrees(seed, smooth, threshold):
    y, known = table(seed=seed)
    A = weights_by_loops(y, known, smooth, threshold)
    degree = A.sum(1)
    found = label_adjacency(y, known, smooth, threshold).double().numpy()
    assert np.allclose(found, A/np.sqrt(np.outer(degree, degree)), atol=1e-6)
    assert np.array_equal(found, found.T) and (found >= 0).all()
    values, vectors = np.linalg.eigh(found)
    assert values[-1] == pytest.approx(1, abs=1e-6) and (np.abs(values) <= 1 + 1e-6).all()
    assert np.allclose(found @ np.sqrt(degree), np.sqrt(degree), atol=1e-5)
    if threshold > .1: return
    root = np.sqrt(degree/degree.sum())
    assert np.allclose(np.abs(vectors[:, -1]), root, atol=1e-4)   # all labels are joined: it is the only one


def test_a_label_that_occurs_with_no_other_or_never_keeps_all_of_its_evidence():
    y, identity = np.eye(4)[[0, 0, 1, 2]], torch.eye(4)
    y[0, 1] = 1
    y[3, 3] = 0
    for kind in GRAPHS:
        A = label_adjacency(y, kind=kind, smooth=0.)
        assert torch.isfinite(A).all()
        for c in (2, 3):
            assert torch.equal(A[c], identity[c]) and torch.equal(A[:, c], identity[c])
    assert torch.equal(label_adjacency(y*0), identity)
    assert torch.equal(label_adjacency(np.zeros((0, 4))), identity)
    assert torch.allclose(label_adjacency(y, threshold=1.), identity)


def test_ml_gcn_graphs_against_loops():
    y, _ = table()
    n, C = y.sum(0), y.shape[1]
    B = np.zeros((C, C))
    for i in range(C):
        for j in range(C):
            both = (y[:, i]*y[:, j]).sum()
            B[i, j] = i != j and both/(n[i] + 1) >= .3
    assert B.any() and not (B == B.T).all()
    neighbours = B.sum(1).clip(1)
    paper, code = (label_adjacency(y, threshold=.3, kind=k).double().numpy() for k in ('row', 'scaled'))
    for i in range(C):
        for j in range(C):
            expected = 1 - .2*B[i].any() if i == j else .2*B[i, j]/neighbours[i]
            assert paper[i, j] == pytest.approx(expected, abs=1e-6)
    A = np.eye(C)
    for j in range(C): A[:, j] += .25*B[:, j]/max(1, B[:, j].sum())
    root = np.diag(A.sum(1)**-.5)
    assert np.allclose(A.sum(0)[B.any(0)], 1.25)
    assert np.allclose(code, (A @ root).T @ root, atol=1e-6)   # as ML-GCN's gen_adj does it
    assert np.allclose(paper.sum(1), 1)


def test_smoothing_weakens_rare_pairs_most():
    frequent, rare = [1., 1, 0, 0], [0., 0, 1, 1]
    y = np.array([frequent]*100 + [rare])
    plain, smooth = (label_adjacency(y, smooth=s) for s in (0., 5.))
    assert plain[0, 1] == plain[2, 3] and smooth[2, 3] < smooth[0, 1] < plain[0, 1]


def test_graph_and_repeats_read_known_entries_only():
    y, known = table()
    other = np.where(known, y, 1 - y)
    assert torch.equal(label_adjacency(y, known), label_adjacency(other, known))
    assert torch.equal(repeat_factors(y, known, .2), repeat_factors(other, known, .2))


@pytest.mark.parametrize('wrong', [
    dict(kind='cosine'), dict(smooth=-1), dict(threshold=1.5),
    dict(y=np.full((3, 2), .5)), dict(y=np.ones(3)),
    dict(known=np.ones((2, 2), bool))])
def test_adjacency_refuses(wrong):
    with pytest.raises(ValueError): label_adjacency(**{'y': np.ones((3, 2)), **wrong})


def test_graph_term_is_bounded_and_can_be_switched_off():
    method, b = prepared().eval(), batch()
    with torch.no_grad():
        method.label_graph.bias.normal_()
        logits, probes = method.look(b.x)
        image = method.reader(method.norm(method.backbone.feature_map(b.x)))[0]
    most = .05*(20 + method.label_graph.bias.abs())     # the factor on the cosine starts at 20
    assert ((logits - image).abs() <= most + 1e-5).all() and not torch.equal(logits, image)
    method.label_graph = None
    assert torch.equal(method(b.x), image) and 'adjacency' not in method.look(b.x)[1]


ALONE = dict(residual=None, scale=None)     # the reading of before: the graph's part alone


def spread_by_hand(net, A):
    hidden = (A @ (net.embedding @ net.first.weight.T)).clamp(min=0)
    return A @ (hidden @ net.second.weight.T)


def score_by_hand(net, r):
    if net.centre is not None: r = (r - net.centre.running_mean)/(net.centre.running_var + 1e-5).sqrt()
    projected = r @ net.project.weight.T + (0 if net.project.bias is None else net.project.bias)
    return F.cosine_similarity(projected[:, None], net.classifiers()[None], dim=-1)


def test_graph_convolution_against_its_formula():
    A, r = label_adjacency(*table()), torch.randn(3, 12)
    net = LabelGCN(5, 12, hidden=7, adjacency=A, **ALONE).eval()
    assert torch.allclose(net.classifiers(), spread_by_hand(net, A), atol=1e-6)
    assert torch.allclose(net(r), score_by_hand(net, r) + net.bias, atol=1e-5)


@pytest.mark.parametrize('s', [0., .5, -2.])
def test_the_residual_against_its_formula(s):
    A, r = label_adjacency(*table()), torch.randn(3, 12)
    net = LabelGCN(5, 12, hidden=7, adjacency=A, residual=s, scale=3.).eval()
    net.centre.running_mean.normal_(), net.centre.running_var.uniform_(.5, 2)
    def even(T): return T/(T**2).sum(1).mean()**.5
    own, spread = net.embedding @ net.second.weight.T, spread_by_hand(net, A)
    assert torch.allclose(net.classifiers(), even(own) + s*even(spread - spread.mean(0)), atol=1e-5)
    assert torch.allclose(net(r), 3*score_by_hand(net, r) + net.bias, atol=1e-5)
    if not s: assert torch.allclose(net.classifiers(), even(own))   # without the graph's part each label is its own


def test_the_reading_of_before_is_the_same_to_the_bit():
    "Its draws, its tensors and its scores, written here as they were."
    class Before(torch.nn.Module):
        def __init__(self, labels, dim, hidden):
            super().__init__()
            self.register_buffer('adjacency', torch.eye(labels))
            self.embedding = torch.nn.Parameter(.02*torch.randn(labels, hidden))
            self.bias = torch.nn.Parameter(torch.zeros(labels))
            self.first, self.second = (torch.nn.Linear(hidden, width, bias=False) for width in (hidden, dim))
            self.project = torch.nn.Linear(dim, dim)

        def forward(self, features):
            hidden = F.relu(self.adjacency @ self.first(self.embedding))
            directions = F.normalize(self.adjacency @ self.second(hidden), dim=-1)
            return F.normalize(self.project(features), dim=-1) @ directions.mT + self.bias
    seed_all(3)
    before = Before(5, 12, 7)
    seed_all(3)
    now = LabelGCN(5, 12, 7, **ALONE).eval()
    for net in (before, now): net.adjacency.copy_(label_adjacency(*table()))
    assert before.state_dict().keys() == now.state_dict().keys()
    assert all(torch.equal(value, now.state_dict()[key]) for key, value in before.state_dict().items())
    r = torch.randn(6, 12)
    assert torch.equal(before(r), now(r))


@pytest.mark.parametrize('vocabulary', [None, 2])
@pytest.mark.parametrize('graph', [None, True, .1, dict(hidden=32), False])
def test_a_file_of_before_keeps_its_graph_and_its_scores(tmp_path, vocabulary, graph):
    "Saved without the two settings: the graph's part alone, strictly loaded."
    from cxr_workbench.learner import load, save
    given = dict(weight=graph) if isinstance(graph, float) else graph if isinstance(graph, dict) else {}
    kept = graph if graph is False else {'hidden': 256, **given, **ALONE}
    method, x = prepared(graph=kept).eval(), batch().x
    file = save(method, tmp_path)/'model.json'
    text = json.loads(file.read_text())
    arguments = text['config']['arguments']
    del arguments['graph']
    if graph is not None: arguments['graph'] = graph
    del text['config']['vocabulary']
    if vocabulary: text['config']['vocabulary'] = vocabulary
    file.write_text(json.dumps(text))
    again = load(tmp_path)
    assert torch.equal(again(x), method(x)) and again.state_dict().keys() == method.state_dict().keys()
    twice = load(save(again, tmp_path/'again'))
    assert torch.equal(twice(x), method(x))


def test_the_graph_moves_logits_before_and_after_training():
    "Its share of the spread over images: measurable under the default, next to nothing in the reading of before."
    b, shares = batch(64, seed=3), {}
    def share(method):
        with torch.no_grad(): logits, probes = method.eval().look(b.x)
        with torch.no_grad(): part = method.graph_weight*method.label_graph(probes['features'])
        return float((part.std(0)/logits.std(0)).mean())
    for name, graph in dict(now=True, before=ALONE).items():
        method = prepared(b, graph=graph)
        for _ in range(40): method.train().look(b.x)                   # statistics of these images
        start = share(method)
        descent = torch.optim.AdamW(method.train().parameters(), 2e-3)
        for _ in range(5):
            descent.zero_grad()
            method.step(b, stage=1).loss.backward()
            descent.step()
        shares[name] = start, share(method)
    assert min(shares['now']) > .05 and min(shares['now']) > 5*max(shares['before'])


def test_features_are_centred_over_the_batch_and_by_what_was_seen_later():
    "So the label logits of many images have no cosine in common; a single image in training is centred as later."
    net = LabelGCN(5, 12, hidden=7).train()
    r = torch.randn(400, 12)*3 + 40                                     # one direction for all images
    assert (net.centre_features(r).mean(0).abs() < 1e-4).all()
    for _ in range(200): net.centre_features(r)
    net.eval()
    scores = net(r)
    assert (scores.mean(0).abs() < .3*scores.std(0)).all()
    before = LabelGCN(5, 12, hidden=7, **ALONE).eval()(r)
    assert (before.mean(0).abs() > 3*before.std(0)).any()
    one = r[:1]
    assert torch.equal(net.train().centre_features(one), net.eval().centre_features(one))


@pytest.mark.parametrize('seed', range(3))
def test_the_graph_cannot_make_all_labels_one_vector(seed):
    "The graph's part adds to 0 over the labels, so no weights of it give them a direction in common."
    A = label_adjacency(*table(C=14, share=1.))
    g = torch.Generator().manual_seed(seed)
    alone = LabelGCN(14, 64, hidden=64, adjacency=A, **ALONE).eval()
    net = LabelGCN(14, 64, hidden=64, adjacency=A).eval()
    with torch.no_grad():
        for value in alone.parameters(): value.copy_(torch.rand(value.shape, generator=g) + .1)   # as smooth as can be
        for name, value in alone.named_parameters():
            if name != 'project.bias': net.get_parameter(name).copy_(value)
    def cosines(T):
        units = F.normalize(T, dim=1)
        return (units @ units.T)[~torch.eye(14, dtype=torch.bool)]
    with torch.no_grad():
        part = net.classifiers() - scale_rows(net.second(net.embedding))
        assert part.sum(0).abs().max() < 1e-3*part.abs().max()
        assert cosines(alone.classifiers()).min() > .99 and cosines(part).mean() <= 0
    fresh = [LabelGCN(14, 64, hidden=64, adjacency=A).eval().classifiers() for _ in range(3)]
    assert all(cosines(T).mean() < .2 for T in fresh)      # as drawn


def test_kept_classifiers_follow_every_change_of_the_weights():
    net, x = LabelGCN(5, 12, hidden=7).eval(), torch.randn(2, 12)
    def now():
        with torch.no_grad(): return net(x)
    with torch.inference_mode(): first = net(x)
    assert torch.equal(first, now())
    again = copy.deepcopy(net)
    assert again.kept is None and torch.equal(again(x), now())
    net.load_state_dict(LabelGCN(5, 12, hidden=7).state_dict())
    changed = now()
    assert not torch.equal(changed, first)
    net.adjacency.copy_(label_adjacency(*table()))
    assert not torch.equal(now(), changed)
    descent = torch.optim.SGD(net.parameters(), .1)
    net(x).square().sum().backward(); descent.step()
    stepped = now()
    net.kept = None
    assert torch.equal(now(), stepped)
    torch.optim.swa_utils.AveragedModel(net).update_parameters(net)


def test_kept_classifiers_do_not_outlive_a_change_of_mode():
    net, x = LabelGCN(5, 12, hidden=7).eval(), torch.randn(2, 12)
    with torch.no_grad():
        before = net(x)
        net.embedding.data.copy_(torch.randn(5, 7))      # as averages of weights are swapped in: no version is counted
        net.eval()
        after = net(x)
        assert net.kept is not None and not torch.equal(before, after)
        features = F.normalize(net.project(net.centre_features(x)), dim=-1)
        directions = F.normalize(net.convolve(), dim=-1)
        assert torch.equal(after, net.log_scale.exp()*(features @ directions.mT) + net.bias)


def test_label_graph_works_in_inference_mode_in_an_export_and_under_vmap():
    with torch.inference_mode():
        inside, x = LabelGCN(5, 12, hidden=7).eval(), torch.randn(2, 12)
        assert torch.isfinite(inside(x)).all() and inside.kept is None
    net, x = LabelGCN(5, 12, hidden=7).eval(), torch.randn(2, 12)
    with torch.no_grad():
        assert torch.allclose(torch.export.export(net, (x,)).module()(x), net(x), atol=1e-6)
        weights = {k: torch.stack([v, torch.randn_like(v)]) for k, v in net.named_parameters()}
        both = torch.func.vmap(lambda w: torch.func.functional_call(net, w, (x,)))(weights)
        assert torch.allclose(both[0], net(x), atol=1e-6)
        assert not torch.allclose(both[1], net(x), atol=1e-3)


def test_networks_without_stochastic_depth_are_taken():
    from cxr_workbench.methods.trcgl import build_backbone
    def drops(name, rate):
        modules = build_backbone(name, rate, size=64).named_modules()
        return any('drop_path' in name and type(module).__name__ == 'DropPath' for name, module in modules)
    assert drops('resnet18', .2) and not drops('resnet18', 0.) and not drops('densenet121', .2)
    with pytest.raises(TypeError, match='strange'): build_backbone('resnet18', .2, size=64, strange=1)


def test_one_stage_is_as_long_as_two():
    two, one = prepared().recipe(), prepared(**LADDER['one stage']).recipe()
    assert len(two) == 2 and len(one) == 1
    assert one[0].epochs == two[0].epochs + two[1].epochs and not one[0].train


def test_counts_that_half_precision_cannot_hold_are_saved_whole(tmp_path):
    from cxr_workbench.learner import load, save
    method = prepared()
    method.counts.copy_(torch.tensor([120_000., 300, 20, 3, 1]))
    again = load(save(method, tmp_path, dtype=torch.float16))
    assert torch.equal(again.counts, method.counts)
    assert torch.equal(again.reader.head.weight, method.reader.head.weight.half().float())


def test_save_and_load_keep_the_label_term(tmp_path):
    from cxr_workbench.learner import load, save
    method, x = prepared().eval(), batch().x
    again = load(save(method, tmp_path))
    adjacency = again.label_graph.adjacency
    assert torch.equal(adjacency, method.label_graph.adjacency) and not torch.equal(adjacency, torch.eye(5))
    assert torch.equal(again(x), method(x))
    text = json.loads((tmp_path/'model.json').read_text())
    text['config']['arguments']['graph'] = False    # a rebuilt method without the graph is refused, not scored
    (tmp_path/'model.json').write_text(json.dumps(text))
    with pytest.raises(ValueError, match='does not belong'): load(tmp_path)


# ---- channels and cells ----

def test_terms_off_is_the_plain_classifier():
    method, b = prepared(attention=False, graph=False).eval(), batch()
    z = method.norm(method.backbone.feature_map(b.x)).mean((2, 3))
    assert torch.equal(method(b.x), method.reader.head(z))
    assert not any(k in method.look(b.x)[1] for k in ('gates', 'attention', 'adjacency'))
    names = {n.split('.')[0] for n, _ in method.named_parameters()} | {n for n, _ in method.reader.named_parameters()}
    assert names == {'backbone', 'norm', 'reader', 'head.weight', 'head.bias'}


def test_reader_equals_the_formulas():
    reader, x = ChannelClassAttention(4, 32, reduction=8).double(), torch.randn(2, 32, 3, 5, dtype=torch.float64)
    reader.requires_grad_(False)
    logits, probes = reader(x)
    W1, W2, Q = reader.gate[0].weight, reader.gate[2].weight, reader.queries.weight[:, :, 0, 0]
    W, b = reader.head.weight, reader.head.bias
    for n in range(2):
        z = x[n].mean((1, 2))
        gate = 1/(1 + torch.exp(-(W2 @ (W1 @ z).clamp(min=0))))
        gated = x[n] + .05*x[n]*gate[:, None, None]
        for c in range(4):
            score = torch.stack([Q[c] @ gated[:, i, j] for i in range(3) for j in range(5)])
            a = score.exp()/score.exp().sum()
            f = sum(a[k]*gated[:, k//5, k%5] for k in range(15))
            pooled, attended = W[c] @ z + b[c], W[c] @ f + b[c]
            assert float(logits[n, c]) == pytest.approx(float(pooled + .1*attended), rel=1e-9)
        assert torch.allclose(probes['gates'][n], gate)
        assert torch.allclose(probes['features'][n], gated.mean((1, 2)))


def test_a_constant_map_gives_every_class_the_gated_cell():
    reader = ChannelClassAttention(4, 32)
    x = torch.randn(2, 32, 1, 1).expand(-1, -1, 4, 4)
    logits, probes = reader(x)
    cell = probes['feature_map'][:, :, 0, 0]
    assert torch.allclose(logits, reader.head(x[:, :, 0, 0]) + .1*reader.head(cell), atol=1e-5)


# ---- the losses ----

def draw(B=6, C=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.rand(*s, generator=g, dtype=torch.float64)
    logits, y = 4*r(B, C) - 2, (r(B, C) < .4).double()
    counts, known, weight = (500*r(C)**3).floor() + 1, r(B, C) < .7, r(B)
    return logits, y, counts, known, weight


@pytest.mark.parametrize('side', ['head', 'tail'])
@pytest.mark.parametrize('beta', [.9999, .9, 0.])
def test_margin_loss_equals_the_loop(side, beta):
    s, y, n, known, kappa = draw()
    e = [(1 - beta)/(1 - beta**max(float(k), 1)) for k in n]
    e = [v*len(e)/sum(e) for v in e]
    u = [1/(v + 1e-6) for v in e]
    width = max(u) - min(u) + 1e-6
    m = [.2*(v - min(u) if side == 'head' else max(u) - v)/width for v in u]
    total = 0.
    for i in range(6):
        for c in range(5):
            if not known[i, c]: continue
            z = float(s[i, c]) - float(y[i, c])*m[c]
            entry = math.log1p(math.exp(z)) - float(y[i, c])*z
            total += float(kappa[i])*math.sqrt(e[c])*entry
    expected = 5*total/int(known.sum())
    found = margin_balanced_loss(s, y, n, beta=beta, margin_for=side, weight=kappa, known=known)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_distribution_balanced_loss_equals_the_loop():
    s, y, n, known, kappa = draw()
    N, total = 2000, 0.
    for i in range(6):
        repeat = sum(1/float(n[k]) for k in range(5) if y[i, k] and known[i, k])
        for c in range(5):
            if not known[i, c]: continue
            r = .1 + (1/(1 + math.exp(-10*(1/float(n[c])/repeat - .2))) if repeat else 1.)
            z = float(s[i, c]) - .05/2*math.log(N/float(n[c]) - 1)
            p = 1/(1 + math.exp(-z)) if y[i, c] else 1/(1 + math.exp(2*z))
            tolerated = 1. if y[i, c] else .5
            total -= float(kappa[i])*r*tolerated*(1 - p)**2*math.log(p)
    found = distribution_balanced_loss(s, y, n/N, known, kappa)
    assert float(found) == pytest.approx(total/int(known.sum()), rel=1e-6)
    assert torch.isfinite(distribution_balanced_loss(s*0, y*0, n*0, known*False))


@pytest.mark.parametrize('name', LOSSES)
def test_rows_of_weight_zero_have_no_gradient_and_count_in_the_mean(name):
    made = torch.arange(12) >= 6
    method, b = prepared(loss=name), batch(synthetic=made)
    for stage, weight in enumerate((0., .5)):
        step = method.step(b, stage=stage)
        gradient = torch.autograd.grad(step.loss, step.logits)[0]
        assert (gradient[6:] == 0).all() == (weight == 0) and gradient[:6].any()
    logits = torch.randn(12, 5)
    loss = lambda rows, weight: method.compute_loss(logits[rows], b.y[rows], b.known[rows], weight)
    all_rows = slice(None)
    parts = [loss(all_rows, w.float()) for w in (made, ~made)]
    assert torch.allclose(sum(parts), loss(all_rows, None), atol=1e-5)
    assert torch.allclose(loss(slice(0, 6), None)/2, parts[1], atol=1e-5)


def test_a_batch_of_generated_rows_alone_is_harmless():
    method = prepared()
    step = method.step(batch(synthetic=torch.ones(12, dtype=torch.bool)), stage=0)
    step.loss.backward()
    assert step.loss == 0 and all(not p.grad.any() for p in method.reader.parameters())


def test_weights_fall_and_margins_rise_with_the_count():
    n = torch.tensor([0, 1, 2, 10, 500, 40000, 10**7])
    e = class_balance(n)
    assert torch.isfinite(e).all() and float(e.mean()) == pytest.approx(1)
    assert e[0] == e[1] and (e[1:].diff() <= 0).all()
    head, tail = (class_margins(e, .3, side) for side in ('head', 'tail'))
    assert (head.diff() >= 0).all() and head[0] == 0
    assert (tail.diff() <= 0).all() and tail[-1] == 0
    for m in (head, tail): assert (m >= 0).all() and (m <= .3).all()
    assert (class_balance(n, 0) == 1).all()


def test_losses_refuse_what_does_not_fit():
    s, y, n, known, kappa = draw()
    for counts in (n[:3], -n, n*torch.nan):
        with pytest.raises(ValueError): margin_balanced_loss(s, y, counts)
    wrong = [dict(weight=kappa[:2]), dict(margin_for='both')]
    for kw in (*wrong, dict(beta=1.), dict(known=known[:2])):
        with pytest.raises(ValueError): margin_balanced_loss(s, y, n, **kw)
    with pytest.raises(ValueError): distribution_balanced_loss(s, y[:, :2], n/600)


@pytest.mark.parametrize('half', [torch.bfloat16, torch.float16])
def test_losses_are_finite_in_half_precision(half):
    s, y, n, known, kappa = draw()
    s = (30*s).to(half).requires_grad_()
    for loss in (margin_balanced_loss(s, y, n, known=known), distribution_balanced_loss(s, y, n/600, known)):
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, s)[0]).all()


# ---- resampling ----

def test_repeat_factors_equal_the_loop():
    y, known = table(n=200, C=8)
    for threshold, most in ((.01, 10), (.3, 4), (.9, 10), (0., 10)):
        n = [(y[:, c]*known[:, c]).sum() for c in range(8)]
        r = [max(1., math.sqrt(threshold*sum(n)/k)) if k else 1. for k in n]
        found = repeat_factors(y, known, threshold, most).tolist()
        for i in range(200):
            factors = [r[c] for c in range(8) if y[i, c] and known[i, c]]
            assert found[i] == round(min(most, max(factors, default=1.)))


def test_repeat_factors_limits():
    y = np.zeros((1000, 3)); y[:, 0] = 1; y[0, 1] = 1
    r = repeat_factors(y, threshold=1., maximum=7)
    assert r[0] == 7 and (r[1:] == 1).all() and r.dtype == torch.long
    assert (repeat_factors(y*0) == 1).all() and (repeat_factors(np.ones((50, 3))) == 1).all()
    for kw in (dict(threshold=-1), dict(maximum=0)):
        with pytest.raises(ValueError): repeat_factors(y, **kw)


@pytest.mark.parametrize('world', [1, 2, 3])
def test_repeated_rows_are_shared_by_the_processes(world):
    known = np.ones((40, 2), bool); known[5] = False
    times = np.ones(40, int); times[:6] = 4
    def epoch(rank, number):
        sampler = batch_sampler(known, Repeat(times), 6, seed=3, rank=rank, world=world)
        sampler.set_epoch(number)
        return list(sampler)
    ranks = [epoch(rank, 1) for rank in range(world)]
    assert len({len(b) for b in ranks}) == 1 and ranks[0] == epoch(0, 1) != epoch(0, 2)
    drawn = np.bincount(np.concatenate([np.ravel(b) for b in ranks]), minlength=40)
    assert (drawn <= times).all() and drawn[5] == 0            # a row without a known label is not drawn
    assert times[known.any(1)].sum() - drawn.sum() < 6*world   # only the incomplete last batch is left out


@pytest.mark.parametrize('times', [None, [1, 2], [1, 1, 0], [1., 1., 2.]])
def test_repeat_refuses(times):
    with pytest.raises(ValueError, match='prepare|draw count'): batch_sampler(np.ones((3, 1), bool), Repeat(times))


# ---- training ----

def data(n=48, synthetic=None):
    g = np.random.default_rng(0)
    y = (g.random((n, 5)) < [.5, .5, .5, .2, .05]).astype(int)
    y[0, 4] = 1
    images = (g.random((n, 32, 32))*255).astype(np.uint8)
    return from_arrays(images, y, patient_id=np.arange(n)//2, label_names=NAMES, synthetic=synthetic)


def test_stage_one_leaves_the_backbone_bit_identical_and_stage_two_moves_it(tmp_path):
    from cxr_workbench.learner import fit
    train, starts = data(), {}
    method = small(epochs=(1, 1), repeat=dict(threshold=.3))
    seen, step = [], method.step
    def watched(b, progress=1., stage=0):
        if stage not in starts: starts[stage] = copy.deepcopy(method.state_dict())
        seen.append((stage, b.idx.tolist()))
        return step(b, progress, stage)
    method.step = watched
    history = fit(method, train, out=tmp_path, batch_size=8, progress=False)
    method.step = step
    def parts_changed(before, after):
        return {k.split('.')[0] for k, v in after.items() if not torch.equal(v, before[k])}
    assert parts_changed(starts[0], starts[1]) == {'norm', 'reader', 'label_graph'}
    assert 'backbone' in parts_changed(starts[1], method.state_dict())
    times = repeat_factors(train.y, train.known, .3)
    batches = [sum(s == k for s, _ in seen) for k in (0, 1)]
    assert history['stage'].tolist() == [0, 1] and times.max() > 1
    assert batches == [int(times.sum())//8]*2
    record = json.loads((tmp_path/'model.json').read_text())['record']
    assert [s['sampler'] for s in record['recipe']] == ['repeat', 'repeat']
    again = small(epochs=(1, 1), repeat=dict(threshold=.3))
    history = fit(again, data(), out=tmp_path, batch_size=8, progress=False)   # the same run: nothing is trained
    assert len(history) == 2 and not parts_changed(method.state_dict(), again.state_dict())


def test_recipe_is_the_code_s():
    first, second = create_method('trcgl', labels=NAMES, size=32, backbone='test_resnet').recipe()
    assert (first.epochs, first.schedule, first.ema, first.clip) == (10, 'constant', None, 1.)
    assert first.groups == (('', 1e-3, .01),)
    assert (second.epochs, second.schedule, second.warmup, second.ema) == (50, 'cosine', .1, .9999)
    assert [group[1:] for group in second.groups] == [(1.5e-5, .01), (1.5e-4, .05)]
    assert first.sampler is second.sampler and isinstance(first.sampler, Repeat)
    assert small(repeat=False).recipe()[0].sampler == 'known'


def test_one_stage_weighs_generated_rows_as_the_second():
    method, b = prepared(**LADDER['one stage']), batch(synthetic=torch.arange(12) > 5)
    assert len(method.recipe()) == 1 and method.recipe()[0].train == ''
    step = method.step(b, stage=0)
    assert torch.autograd.grad(step.loss, step.logits)[0][6:].any()


def test_no_generated_row_and_no_shared_patient_is_held_out():
    made = np.zeros(48, bool); made[1::4] = True
    both = data(synthetic=made)
    train, held = split_by_patient(both, fraction=.25)
    assert len(held) and not made[held].any() and not set(both.patient_id[train]) & set(both.patient_id[held])
    assert not set(train) & set(held) and made[train].any()
    assert len(train) + len(held) < 48   # copies of held-out patients go to neither side
    plain = data()
    train, held = split_by_patient(plain, fraction=.25)
    assert len(train) + len(held) == 48
    with pytest.raises(ValueError, match='no patients'): split_by_patient(from_arrays(plain.images, plain.y))


def test_prepare_reads_what_unknown_means():
    y, known = table(share=.5)
    ignored, negative = small(), small(unknown='negative')
    for method in (ignored, negative): method.prepare(y, known)
    assert torch.equal(ignored.label_graph.adjacency, label_adjacency(y, known))
    assert torch.equal(negative.label_graph.adjacency, label_adjacency(y*known))
    assert ignored.sampler.times.tolist() == repeat_factors(y, known).tolist()


@pytest.mark.parametrize('wrong, says', [
    (dict(loss='db'), 'there are .*margin'), (dict(graph=dict(kind='cosine')), 'there are .*symmetric'),
    (dict(synthetic_weight=(0.,)), 'synthetic_weight'), (dict(synthetic_weight=(0., -1.)), 'synthetic_weight'),
    (dict(epochs=(1, 0)), 'only the first'), (dict(epochs=(1, 1, 1)), 'epochs'),
    (dict(lr=1e-3), 'lr=0.001'),
    (dict(weight_decay=(.1, -.1)), 'weight_decay'), (dict(graph=dict(depth=2)), r"no setting \['depth'\]"),
    (dict(attention=dict(scale=2.)), r"no setting \['scale'\]"), (dict(repeat=dict(rare=.1)), 'threshold'),
    (dict(loss_settings=dict(slope=1.)), 'beta'), (dict(loss='bce', loss_settings=dict(beta=.9)), 'bce'),
    (dict(momentum=.9), r"no setting \['momentum'\]"), (dict(repeat='often'), 'often')])
def test_method_refuses(wrong, says):
    with pytest.raises(ValueError, match=says): small(**wrong)


def test_ladder_starts_at_the_plain_classifier_and_ends_at_the_method():
    assert LADDER['+ loss and sampler'] == {} and list(LADDER)[0] == 'base'
    assert small(**LADDER['base']).label_graph is None and small(**LADDER['+ label graph']).loss == 'bce'
    logits, y, known = torch.zeros(2, 3), torch.eye(2, 3), torch.ones(2, 3).bool()
    losses = [weighted_asymmetric(logits, y, known, weight) for weight in (None, torch.ones(2))]
    assert torch.equal(*losses)


# ---- the graph's old name, and numbers of other kinds ----

def test_files_under_the_old_name_of_the_graph_are_read():
    from torch.optim.swa_utils import AveragedModel
    method = small(labels=NAMES, graph=dict(hidden=64, **ALONE))
    state = method.state_dict()
    state_before = {key: value.clone() for key, value in state.items()}
    def name_before(key): return key.replace('label_graph.', 'graph.').replace('reader.queries.', 'reader.look.')
    old = {name_before(key): value for key, value in state_before.items()}
    assert len(old.keys() - state.keys()) == 8 and not any(key.startswith('graph.') for key in state)
    with torch.no_grad():
        for p in method.parameters(): p.add_(1)
    method.load_state_dict(old, strict=True)
    for key, value in method.state_dict().items(): assert torch.equal(value, state_before[key]), key
    average = AveragedModel(method)
    average.load_state_dict({'n_averaged': torch.tensor(3), **{f'module.{key}': value for key, value in old.items()}})
    assert average.n_averaged == 3
    assert method.graph is method.label_graph
    method.graph = None
    assert method.label_graph is None and not any('graph' in key for key in method.state_dict())


def test_class_weights_of_effective_numbers_in_every_type():
    exact = class_balance([1, 10, 1000, 90000])
    assert exact.dtype == torch.float64 and class_balance(torch.tensor([1, 10])).dtype == torch.float64
    single = class_balance(torch.tensor([1., 10., 1000., 90000.]))
    assert single.dtype == torch.float32 and torch.allclose(single.double(), exact, rtol=1e-5)
    assert class_balance(torch.tensor([1., 10.]).half()).dtype == torch.float32


@pytest.mark.parametrize('focus', [.5, 1., 2.])
@pytest.mark.parametrize('y', [0., 1.])
def test_the_distribution_balanced_loss_has_a_gradient_everywhere(focus, y):
    s = torch.cat([torch.linspace(-12, 12, 49), torch.tensor([-200., 200.])])
    s = s.bfloat16()[:, None]
    def slope(s):
        s = s.detach().requires_grad_()
        loss = distribution_balanced_loss(s, torch.full(s.shape, y), torch.tensor([.1]), focus=focus)
        return torch.autograd.grad(loss, s)[0].double()
    exact = slope(s.double())
    assert torch.isfinite(exact).all() and torch.allclose(slope(s), exact, rtol=.02, atol=1e-6)


# ---- arguments and terms under their names of before ----

OLD = dict(
    gate=True, gate_scale=.1, reduction=8, spatial=.2, graph=.1, hidden=32, dropout=.3, graph_kind='row', smooth=2.,
    threshold=.3, loss='margin', beta=.99, margin=.1, margin_for='tail', resample=True, rare=.2, repeats=4,
    kappa=(.1, .7), flip=0., shift=.05, weights={'margin': 2.})
NEW = dict(
    attention=dict(gate=True, gate_scale=.1, reduction=8, spatial=.2), weak=dict(flip=0., shift=.05),
    graph=dict(weight=.1, hidden=32, dropout=.3, kind='row', smooth=2., threshold=.3), synthetic_weight=(.1, .7),
    loss='margin', loss_settings=dict(beta=.99, margin=.1, margin_for='tail'),
    repeat=dict(threshold=.2, maximum=4), weights={'supervised': 2.})


def check_same_method(old, new):
    "Same weights, recipe and loss."
    b = batch(synthetic=torch.arange(12) > 7)
    for method in (old, new): method.prepare(b.y, b.known)
    assert old.state_dict().keys() == new.state_dict().keys()
    assert all(torch.equal(v, new.state_dict()[k]) for k, v in old.state_dict().items())
    assert [repr(stage) for stage in old.recipe()] == [repr(stage) for stage in new.recipe()]
    if old.repeat: assert np.array_equal(old.sampler.times, new.sampler.times)
    losses = []
    for method in (old, new):
        seed_all(1)
        losses += [method.step(b, stage=1).loss]
    assert torch.equal(*losses)


@pytest.mark.parametrize('old, new', [
    (OLD, NEW),
    (dict(gate=False, spatial=0., graph=0., loss='bce', resample=False), LADDER['base']),
    (dict(graph=0., hidden=64, threshold=.1), dict(graph=False)),
    (dict(rare=.3, resample=False), dict(repeat=False)), (dict(resample=True), dict(repeat=True)),
    (dict(loss='balanced', beta=.99, margin=.1), dict(loss='balanced')),
    (dict(kappa=(0., 0.)), LADDER['no generated rows']), (dict(margin_for='tail'), LADDER['margin for the tail']),
    (dict(flip=0.), dict(weak=dict(flip=0.))),
    (dict(weights={'margin': .5}), dict(weights={'supervised': .5}))])
def test_old_arguments_and_terms_build_the_same_method_and_say_so(old, new):
    with pytest.warns(UserWarning, match='trcgl: .* names of before'): before = small(**old)
    check_same_method(before, small(**new))


def test_a_configuration_of_before_is_the_same_method(tmp_path):
    from cxr_workbench.renamed import update_config
    arguments = {**OLD, 'backbone': 'test_resnet', 'drop_path': 0., 'epochs': (2, 10), 'lr': (2e-3, 2e-3)}
    config = dict(method='trcgl', labels=NAMES, size=32, pretrained=False, arguments=arguments)
    config = json.loads(json.dumps(config))              # as a file gives it
    now = update_config(config)
    common = dict(labels=NAMES, size=32, backbone='test_resnet', drop_path=0., epochs=(2, 10), lr=(2e-3, 2e-3))
    seed_all(0)
    before = create_method('trcgl', labels=now['labels'], size=now['size'], **now['arguments'])
    seed_all(0)
    new = {**NEW, 'graph': {**NEW['graph'], **ALONE}}
    check_same_method(before, create_method('trcgl', **common, **new))


def test_the_shift_of_the_paper_stays_where_another_setting_of_the_view_is_given():
    assert small().weak.shift == small(weak=dict(flip=0.)).weak.shift == .03
    assert small(weak=dict(shift=.1)).weak.shift == .1
    assert isinstance(small(weak=False).weak, torch.nn.Identity)


def test_the_weight_alone_gives_the_graph():
    assert small(graph=.3).graph_weight == small(graph=dict(weight=.3)).graph_weight == .3
    for off in (0., None, False, dict(weight=0.)): assert small(graph=off).label_graph is None


# ---- the packaged model ----

@pytest.fixture(scope='module')
def packaged():
    "The packaged model, and of new images: logits, probes, lesions and labels."
    from cxr_workbench.data import from_phantom
    from cxr_workbench.learner import find_model, load
    from cxr_workbench.phantom import SyntheticCXR
    phantom, model = SyntheticCXR(200, size=64, seed=77), load(find_model('trcgl'))
    data = from_phantom(phantom)
    with torch.no_grad(): logits, probes = model.look(data.batch(range(200)).x)
    masks = np.stack([phantom.mask(i) for i in range(200)]) > 0
    return model, logits, probes, masks, data.y.numpy()


def test_the_packaged_model_attends_to_lesions_of_the_image_at_hand(packaged):
    from cxr_workbench.metrics import pointing_game
    masks = packaged[3]
    attention, there = packaged[2]['attention'], masks.any((2, 3))
    own, swapped = (pointing_game(a, masks)[there].mean() for a in (attention, attention.roll(1, 0)))
    chance = masks.mean((2, 3))[there].mean()
    assert own > 2*chance and own > swapped + .02      # more than by chance, more than another image's map


def test_the_packaged_model_has_learned_from_a_long_tail(packaged):
    from cxr_workbench.metrics import auroc
    model, logits, _, _, y = packaged
    assert model.counts.max() > 40*model.counts.min()
    assert np.nanmean(auroc(logits.sigmoid().numpy(), y)) > .75
    adjacency = model.label_graph.adjacency
    assert torch.equal(adjacency, adjacency.mT) and not torch.equal(adjacency, torch.eye(14))
    assert abs(torch.linalg.eigvalsh(adjacency)[-1] - 1) < 1e-3      # half precision
