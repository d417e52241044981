"The arithmetic under the tables of experiments/: pairs, intervals, shares, runs of a command, whole patients."
import re, shutil, sys
from argparse import Namespace
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'experiments'))
import all_tables, common, confident_entries, correlations, few_labels, label_graph, lcc_folds, long_tail, pretrained
import rivals
sys.path.pop(0)


OPTIONS = dict(
    data='phantom', table=None, fold_column='cv_fold', fold_count=5, folds=[0, 1], draws=2, repeats=3, steps=10,
    variants=None, size=32, backbone='test_resnet', preset='tiny', batch_size=8, unlabelled=8, device='cpu', jobs=1,
    regime='fraction', fractions=[.1], tune=[], ema=None, method='lcc', ratio=20., tail=.05, rare=.1,
    weights=None, weights_b=None, frozen=3, lr=1e-3, fraction=.1, report_only=True)


def make_options(**kw):
    "The options of a command."
    return Namespace(**{**OPTIONS, **kw})


def make_rows(values, **kw):
    "A table of runs from (fold, draw, variant, auroc)."
    def run(fold, draw, variant, auroc):
        scores = dict(auroc=auroc, ap=auroc/2, valid_auroc=auroc, valid_ap=auroc/2)
        return dict(fold=fold, draw=draw, variant=variant, steps_done=10, **scores, **kw)

    return pd.DataFrame([run(*value) for value in values])


def test_interval_is_students_where_nothing_is_shared():
    from scipy import stats
    x = [.1, .3, .2, .25]
    mean, low, high = common.fold_interval(x, 0)
    expected = stats.t.interval(.95, 3, loc=np.mean(x), scale=stats.sem(x))
    assert (low, high) == pytest.approx(expected)
    assert common.fold_interval([.5], 0) == (.5, -np.inf, np.inf)


def test_folds_share_training_rows_and_phantoms_do_not():
    assert common.test_to_train(make_options(data='phantom')) == 0
    assert common.test_to_train(make_options(data='images.npz')) == 1/4
    assert common.test_to_train(make_options(data='images.npz', fold_count=3)) == 1/2
    x = [.1, .3, .2, .25, .15]
    plain, wide = common.fold_interval(x, 0), common.fold_interval(x, 1/4)
    assert (wide.high - wide.mean)/(plain.high - plain.mean) == pytest.approx(1.5)
    with pytest.raises(TypeError, match='ratio'): common.fold_interval(x)                # nobody forgets it
    with pytest.raises(TypeError, match='ratio'): common.compare_paired(make_rows([(0, 0, 'a', .5)]), 'a', 'a', 'auroc')


SCORES = ('valid_auroc', 'valid_ap', *long_tail.SCORES)
SHARES = (*confident_entries.MEASURES, 'hits', 'cam_hits', 'chance', 'counted', 'declared')


@pytest.mark.parametrize('module', [few_labels, correlations, long_tail, confident_entries, pretrained])
def test_every_experiment_widens_what_folds_give(module):
    "The same rows as phantoms and as folds: the tables differ by the width of their intervals only, a factor of 1.5."
    widths, texts = [], []
    for data in ('phantom', 'images.npz'):
        o = make_options(data=data, folds=list(range(5)), draws=1, size=64)
        jobs, rng, frame = module.list_jobs(o), np.random.default_rng(0), []
        for job in jobs:
            scores = {k: .5 + .1*rng.random() for k in SCORES} | {k: rng.random() for k in SHARES}
            frame.append(dict(job['key'], steps_done=10, made=0, tail=3, **scores))
        found = module.format_tables(o, pd.DataFrame(frame), jobs)
        ends = [tuple(map(float, m)) for m in re.findall(r'\[([+-]?[\d.]+), ([+-]?[\d.]+)\]', found)]
        widths.append(np.array([high - low for low, high in ends]))
        texts.append(re.sub(r'\[[^\[\]]*\]|phantom|real images', '', found))
    assert len(widths[0]) > 2 and np.allclose(widths[1], 1.5*widths[0], atol=.004)
    without_shares = [re.sub(r'-?\d+%', '', text) for text in texts]
    assert module is few_labels or without_shares[0] == without_shares[1]


def test_pairs_average_draws_inside_a_fold():
    frame = make_rows([
        (0, 0, 'a', .5), (0, 0, 'b', .6),
        (0, 1, 'a', .5), (0, 1, 'b', .8),
        (1, 0, 'a', .4), (1, 0, 'b', .5),
        (1, 1, 'b', .9)])   # has no partner
    for ratio in (0, 1/4):
        found = common.compare_paired(frame, 'b', 'a', 'auroc', ratio)
        assert found['folds'] == 2 and found['mean'] == pytest.approx(np.mean([.2, .1]))
        assert (found['low'], found['high']) == pytest.approx(common.fold_interval([.2, .1], ratio)[1:])
    assert common.compare_paired(frame, 'c', 'a', 'auroc', 0) is None


def test_a_table_with_other_folds_is_refused(tmp_path):
    images = np.zeros((30, 32, 32), np.uint8)
    table = pd.DataFrame(dict.fromkeys(['image_id', 'patient_id', 'npz_row'], range(30)))
    table = table.assign(Edema=[0, 1]*15, Mass=[1, 0, 0]*10, cv_fold=np.arange(30) % 3)
    np.savez(tmp_path/'images.npz', images=images)
    table.to_csv(tmp_path/'table.csv', index=False)
    o = make_options(data=str(tmp_path/'images.npz'), table=str(tmp_path/'table.csv'))
    with pytest.raises(ValueError, match=r'has 3 folds, \[0, 1, 2\], and --fold-count says 5'): common.split_parts(o, 0)
    o.fold_count = 3
    assert len(common.split_parts(o, 0)[2]) == 10


def test_share_of_the_gap_over_common_runs_only():
    first = [(0, 0, 'base', .5), (0, 0, 'mine', .6)]
    frame = make_rows([*first, (0, 0, 'full', .9), (1, 0, 'base', .1), (1, 0, 'full', .9)])
    assert common.share_of_gap(frame, 'mine', 'base', 'full', 'auroc') == pytest.approx(.25)
    no_gap = make_rows([*first, (0, 0, 'full', .5)])
    assert np.isnan(common.share_of_gap(no_gap, 'mine', 'base', 'full', 'auroc'))


def test_tuned_baseline_is_chosen_on_validation():
    frame = make_rows([(0, 0, 'baseline', .5), (0, 0, 'baseline at 100', .6), (0, 0, 'ACAA', .9)])
    frame.loc[frame['variant'] == 'baseline at 100', 'auroc'] = .1          # worse on the test part
    best = few_labels.select_tuned(frame, 'baseline')
    assert best['auroc'].tolist() == [.1] and best['variant'].tolist() == ['baseline, steps tuned']
    more = pd.concat([frame, make_rows([(1, 0, 'baseline', .5)])])   # one number of steps is no choice
    assert few_labels.select_tuned(more, 'baseline')['fold'].tolist() == [0]
    assert not len(few_labels.select_tuned(make_rows([(0, 0, 'baseline', .5)]), 'baseline'))


@pytest.mark.parametrize('module, more', [
    (few_labels, {}), (few_labels, dict(regime='single-positive', tune=[5])),
    (correlations, {}), (correlations, dict(method='can')), (long_tail, {}),
    (rivals, dict(regime='single-positive')), (rivals, dict(regime='tail')),
    (label_graph, dict(size=64)),
    (pretrained, dict(regime='ends')), (pretrained, {}), (pretrained, dict(regime='single-positive')),
    (pretrained, dict(regime='full'))])
def test_every_run_has_one_key(module, more):
    o = make_options(**more)
    jobs = module.list_jobs(o)
    assert len({tuple(map(str, j['key'].values())) for j in jobs}) == len(jobs)
    for job in jobs: assert set(job['key']) | set(common.SETTINGS) == set(common.KEY)


def make_head(graph, seed=0):
    "A small method with a counted graph, maps in which a channel tells each label, and the labels."
    import torch
    from cxr_workbench.core import create_method, seed_all
    from cxr_workbench.data import from_arrays
    seed_all(seed)
    method = create_method('trcgl', labels=4, size=64, preset='maps', graph=graph)
    y = (torch.rand(200, 4) < torch.tensor([.5, .4, .3, .2])).float()
    maps = torch.randn(200, method.backbone.dim, 4, 4)
    maps[:, :4] += y[:, :, None, None]
    method.prepare(y, y >= 0)
    names = ['a', 'b', 'c', 'd']
    data = from_arrays(np.zeros((200, 64, 64), np.uint8), y, patient_id=np.arange(200), label_names=names)
    return method, maps, data


def test_a_shuffled_graph_has_the_same_weights_elsewhere():
    import torch
    method, _, _ = make_head(label_graph.OURS)
    counted = method.label_graph.adjacency.clone()
    label_graph.change_adjacency(method.label_graph, 'kept', 0)
    assert torch.equal(method.label_graph.adjacency, counted)
    label_graph.change_adjacency(method.label_graph, 'shuffled', 1)
    shuffled = method.label_graph.adjacency.clone()
    assert not torch.equal(shuffled, counted) and torch.equal(shuffled, shuffled.mT)
    assert torch.equal(shuffled.flatten().sort().values, counted.flatten().sort().values)
    assert torch.equal(shuffled.diagonal().sort().values, counted.diagonal().sort().values)
    label_graph.change_adjacency(method.label_graph, 'identity', 0)
    assert torch.equal(method.label_graph.adjacency, torch.eye(4))


def test_a_head_learns_on_maps_that_stay():
    import torch
    for graph in (False, label_graph.OURS):
        method, maps, data = make_head(graph)
        before = {name: p.clone() for name, p in method.backbone.named_parameters()}
        start = label_graph.score_head(method.eval(), maps, data, np.array([False, False, True, True]))
        label_graph.train_head(method, maps, data, steps=100, batch_size=64, seed=0, lr=.02)
        end = label_graph.score_head(method, maps, data, np.array([False, False, True, True]))
        assert end['auroc'] > max(.9, start['auroc']) and end['tail_ap'] > start['tail_ap']
        assert all(torch.equal(p, before[name]) for name, p in method.backbone.named_parameters())
        logits, part = label_graph.read_head(method, maps)
        assert part.any() == bool(graph) and torch.equal((logits - part).isfinite(), torch.ones(200, 4).bool())
        assert np.isnan(label_graph.measure_graph(method, maps)).all() == (not graph)


def test_the_graph_experiment_takes_what_the_packaged_network_has_seen():
    with pytest.raises(SystemExit, match='64 px'): label_graph.list_jobs(make_options(size=32))
    strange = make_options(size=64, variants=['circle'])
    with pytest.raises(SystemExit, match='no variant'): label_graph.list_jobs(strange)


@pytest.mark.parametrize('regime', ['fraction', 'single-positive', 'full'])
def test_every_variant_of_a_pretrained_network_can_be_built(regime):
    from cxr_workbench.core import create_method
    for variant, (name, arguments) in pretrained.TABLES[regime](make_options(frozen=2)).items():
        method = create_method(name, labels=3, size=32, backbone='test_resnet', **arguments)
        assert all(stage.frozen_stages == 2 for stage in method.recipe()), variant


def make_small_parts(o, fold):
    "Three parts of few phantoms."
    from cxr_workbench.data import from_phantom
    from cxr_workbench.phantom import SyntheticCXR
    return [from_phantom(SyntheticCXR(n, size=o.size, seed=seed)) for seed, n in enumerate((48, 24, 40))]


def test_all_variants_with_all_labels_train_as_long_and_leave_the_early_stages(monkeypatch):
    from cxr_workbench.backbone import Backbone, list_early
    o, seen = make_options(regime='full', frozen=2, folds=[0], draws=1, steps=6, tail=.09, size=32), {}
    def build(*given, **kw):
        method = common.build_method(*given, **kw)
        seen['method'], seen['start'] = method, {n: p.detach().clone() for n, p in method.named_parameters()}
        return method
    monkeypatch.setattr(pretrained, 'build_method', build)
    monkeypatch.setattr(pretrained, 'split_parts', make_small_parts)
    jobs = pretrained.list_jobs(o)
    assert [job['key']['variant'] for job in jobs] == list(pretrained.list_full_variants(o))
    for job in jobs:
        row, method = pretrained.train_fully(o, job), seen['method']
        variant = row['variant']
        assert row['steps_done'] == 6*(2 if variant in pretrained.DOUBLE else 1), variant
        assert np.isfinite([row[k] for k in (*long_tail.SCORES, 'valid_auroc')]).all(), variant
        nets = [(name, module) for name, module in method.named_modules() if isinstance(module, Backbone)]
        is_pair = variant.startswith('CAN') and variant != 'CAN, balance loss only'
        assert len(nets) == (2 if is_pair else 1), variant
        moved = {n for n, p in method.named_parameters() if not bool((p.cpu() == seen['start'][n]).all())}
        early = {f'{part}.{own}' for part, module in nets for own in list_early(module, 2)}
        assert early and not moved & early, variant
        assert all(any(name.startswith(part) for name in moved) for part, _ in nets), variant


@pytest.mark.parametrize('regime', ['single-positive', 'tail'])
def test_every_rival_trains(monkeypatch, regime):
    o = make_options(regime=regime, folds=[0], draws=1, steps=2, size=32, ratio=4.)
    monkeypatch.setattr(rivals, 'split_parts', make_small_parts)
    jobs = rivals.list_jobs(o)
    assert {'label decoder', 'MixUp', 'SpliceMix'} <= {job['key']['variant'] for job in jobs}
    for job in jobs:
        row = rivals.train_rival(o, job)
        assert row['steps_done'] >= 2 and np.isfinite([row['auroc'], row['ap'], row['valid_ap']]).all(), row['variant']


def test_the_second_branch_has_its_own_file_and_network():
    o = make_options(regime='full', weights='folder/lite0.safetensors', weights_b='folder/lite1.safetensors')
    table = pretrained.list_full_variants(o)
    two = table['CAN'][1]
    assert two['pretrained'] == ['folder/lite0.safetensors', 'folder/lite1.safetensors']
    assert two['branch_b'] == 'lite1'
    single = [arguments for name, arguments in table.values() if name == 'can' and arguments.get('fuse') == 'single']
    assert len(single) == 2 and all(a['pretrained'] == table['baseline'][1]['pretrained'] for a in single)
    with pytest.raises(SystemExit, match='lite0.safetensors is missing'):
        pretrained.list_jobs(make_options(**{**vars(o), 'report_only': False}))


def test_the_tables_of_all_labels_compare_part_with_part():
    o = make_options(regime='full', folds=[0, 1, 2], draws=1)
    jobs, rng = pretrained.list_jobs(o), np.random.default_rng(0)
    def score(): return {k: rng.random() for k in long_tail.SCORES}
    frame = pd.DataFrame([dict(job['key'], steps_done=10, tail=6, **score()) for job in jobs])
    text = pretrained.format_tables(o, frame, jobs)
    found = common.compare_paired(frame, 'CAN', 'one branch at equal compute', 'tail_ap', 0)
    line = next(x for x in text.splitlines() if x.startswith('| CAN against one branch at equal compute |'))
    assert line.split('|')[6].strip() == common.format_difference(found)


def test_a_command_takes_up_its_own_runs_and_loses_none(tmp_path):
    o = make_options(out=tmp_path/'runs.csv', report_only=False, regime='fraction', folds=[0], draws=1, jobs=1)
    jobs = few_labels.list_jobs(o)
    for job in jobs: job['key'].update({name: getattr(o, name) for name in common.SETTINGS})
    kept = [dict(job['key'], auroc=.5, ap=.2, steps_done=10) for job in jobs[:-1]]
    other = dict(kept[0], size=64)
    pd.DataFrame([other, *kept]).to_csv(o.out, index=False)
    o.report_only = True
    frame = common.run_all(o, jobs)
    assert len(frame) == len(jobs) and len(common.select_runs(frame, jobs)) == len(jobs) - 1


def test_one_new_run_is_appended(tmp_path):
    o = make_options(out=tmp_path/'runs.csv', report_only=False, folds=[0], draws=1, variants=['base', 'whole'])
    first, second = lcc_folds.list_jobs(Namespace(**{**vars(o), 'repeats': 1}))
    settings = {name: getattr(o, name) for name in common.SETTINGS}
    pd.DataFrame([dict(first['key'], **settings, auroc=.5, ap=.2)]).to_csv(o.out, index=False)
    frame = common.run_all(o, [first, second], make_row)
    assert frame['auroc'].tolist() == [.5, .7] and pd.read_csv(o.out).shape[0] == 2


def make_row(o, job): return dict(job['key'], auroc=.7, ap=.3, steps_done=10, seconds=0.)


@pytest.mark.parametrize('repeat', [0, 1])
def test_patients_are_whole_in_the_three_times_five_folds(repeat):
    o, tested = make_options(size=32), []
    for fold in range(2):
        train, valid, test = lcc_folds.fold_parts(o, repeat, fold)
        who = [set(np.asarray(part.patient_id)) for part in (train, valid, test)]
        assert not who[0] & who[1] and not who[0] & who[2] and not who[1] & who[2]
        tested.append(who[2])
    assert not tested[0] & tested[1]


def test_repeats_deal_the_patients_anew():
    o = make_options(size=32)
    a, b = (set(np.asarray(lcc_folds.fold_parts(o, repeat, 0)[2].patient_id)) for repeat in (0, 1))
    assert a != b


def test_the_interval_of_the_folds_knows_of_their_overlap():
    rng = np.random.default_rng(0)
    means, values = {'base': .5, 'whole': .6}, []
    for draw, fold in np.ndindex(3, 5):
        values += [(fold, draw, name, mean + .02*rng.normal()) for name, mean in means.items()]
    frame = make_rows(values).assign(f1=.1)
    text = lcc_folds.format_tables(make_options(variants=['base', 'whole']), frame)
    wide = frame.pivot_table(index=['draw', 'fold'], columns='variant', values='auroc')
    low, high = common.fold_interval(wide['whole'] - wide['base'], 0)[1:]
    shown = text.splitlines()[-1].split('|')[6]
    text_low, text_high = (float(v) for v in shown[shown.index('[') + 1:shown.index(']')].split(','))
    assert text_high - text_low > 1.5*(high - low) and text_low > 0


# the committed tables, and the sentences that quote them

def test_the_committed_tables_are_what_the_rows_give():
    differ = all_tables.find_differences()
    assert not differ, f'{differ} are not what the rows give: run python experiments/all_tables.py'


def test_a_changed_row_or_table_is_noticed(tmp_path):
    for path in all_tables.RESULTS.glob('*.*'): shutil.copy(path, tmp_path)
    table = tmp_path/'lcc_folds-real.md'
    table.write_text(table.read_text().replace('-0.0216', '-0.0016'))
    (tmp_path/'of_no_command.md').write_text('a table')
    rows_ = pd.read_csv(tmp_path/'long_tail.csv')
    rows_.loc[(rows_['size'] == 64) & (rows_['data'] == 'phantom'), 'auroc'] += np.linspace(0, .1, 48)
    rows_.to_csv(tmp_path/'long_tail.csv', index=False)
    assert all_tables.find_differences(tmp_path) == ['lcc_folds-real.md', 'long_tail-64-phantom.md', 'of_no_command.md']


def test_one_cell_is_marked():
    real, phantom = ((all_tables.RESULTS/f'long_tail-{name}.md').read_text() for name in ('32-real', '64-phantom'))
    assert 'says nothing about attention' in real
    assert real.count('+ class attention †') == 1 and real.count('†') == 4
    assert '†' not in phantom
    for size, preset, cells in ((32, 'tiny', 1), (64, 'tiny', 2), (32, 'maps', 8)):
        assert common.count_cells(make_options(size=size, preset=preset)) == cells


INTERVAL = re.compile(r'([+-]?\d*\.\d+) \[([+-]?\d*\.\d+), ([+-]?\d*\.\d+)\]')


def compute_untabled():
    "What the sentences quote of a part of the rows that has no table of its own."
    runs = pd.read_csv(all_tables.RESULTS/'few_labels.csv')
    runs = runs.query("data == 'phantom' and regime == 'single-positive' and draw == 0")
    an = runs[(runs['variant'] == 'AN at 1600') | (runs['variant'] == 'AN') & (runs['steps'] == 800)]
    trusted = pd.read_csv(all_tables.RESULTS/'confident_entries.csv')
    trusted = trusted.query("data == 'images_64' and variant == 'ACAA'")
    return [
        tuple(common.compare_paired(an, 'AN at 1600', 'AN', 'ap', 0).values())[:3],
        tuple(common.compare_paired(runs[runs['steps'] == 800], 'MPC, tau_neg .2', 'AN', 'ap', 0).values())[:3],
        tuple(100*v for v in common.fold_interval(trusted['information'], 1/4))]                     # in percent


def find_quoted():
    "Every value with an interval in the sentences on experiments over folds or phantoms."
    import nbformat
    yield from ((m.groups(), 'README') for m in INTERVAL.finditer((ROOT/'experiments/README.md').read_text()))
    for name in ('20_can', '30_lcc', '40_mpc', '50_acaa', '60_trcgl', '62_trcgl_requests'):
        for cell in nbformat.read(ROOT/f'nbs/{name}.ipynb', as_version=4).cells:
            if cell.cell_type == 'markdown': yield from ((m.groups(), name) for m in INTERVAL.finditer(cell.source))


def test_every_quoted_interval_stands_in_a_table():
    tables = '\n'.join(path.read_text() for path in sorted(all_tables.RESULTS.glob('*.md')))
    there = np.array([*(list(map(float, m.groups())) for m in INTERVAL.finditer(tables)), *compute_untabled()])
    strange, found = [], list(find_quoted())
    for numbers, where in found:
        digits = max(len(n.split('.')[1]) for n in numbers)
        rounding = .5*10.**-digits + (6e-5 if digits > 2 else 6e-4)                 # the tables are rounded as well
        apart = np.abs(there - np.array(numbers, float)).max(1)
        if apart.min() > rounding: strange.append(f'{where}: {numbers[0]} [{numbers[1]}, {numbers[2]}]')
    assert len(found) > 80 and not strange, '\n'.join(strange)
