"The arithmetic under the tables of experiments/: pairs, intervals, shares, which runs belong to a command, whole patients."
import sys
from argparse import Namespace
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'experiments'))
import common, correlations, few_labels, lcc_folds, long_tail
sys.path.pop(0)


def asked(**kw):
    "What a command is told."
    return Namespace(**{**dict(data='phantom', table=None, folds=[0, 1], draws=2, steps=10, variants=None, size=32, backbone='test_resnet', batch_size=8, unlabelled=8, preset='tiny',
                               device='cpu', jobs=1, tune=[], fractions=[.1], ema=None, regime='fraction', method='lcc', repeats=3, ratio=20., tail=.05, rare=.1), **kw})


def rows(values, **kw):
    "A table of runs from (fold, draw, variant, auroc)."
    return pd.DataFrame([dict(fold=f, draw=d, variant=v, auroc=a, ap=a/2, valid_auroc=a, valid_ap=a/2, steps_done=10, **kw) for f, d, v, a in values])


def test_interval_is_students():
    from scipy import stats
    x = [.1, .3, .2, .25]
    mean, low, high = common.t_interval(x)
    assert (low, high) == pytest.approx(stats.t.interval(.95, 3, loc=np.mean(x), scale=stats.sem(x)))
    assert common.t_interval([.5]) == (.5, -np.inf, np.inf)


def test_pairs_average_draws_inside_a_fold():
    frame = rows([(0, 0, 'a', .5), (0, 0, 'b', .6), (0, 1, 'a', .5), (0, 1, 'b', .8), (1, 0, 'a', .4), (1, 0, 'b', .5), (1, 1, 'b', .9)])   # the last has no partner
    found = common.paired(frame, 'b', 'a', 'auroc')
    assert found['folds'] == 2 and found['mean'] == pytest.approx(np.mean([.2, .1]))
    assert (found['low'], found['high']) == pytest.approx(common.t_interval([.2, .1])[1:])
    assert common.paired(frame, 'c', 'a', 'auroc') is None


def test_share_of_the_gap_over_common_runs_only():
    frame = rows([(0, 0, 'base', .5), (0, 0, 'mine', .6), (0, 0, 'full', .9), (1, 0, 'base', .1), (1, 0, 'full', .9)])
    assert common.closed(frame, 'mine', 'base', 'full', 'auroc') == pytest.approx(.25)
    assert np.isnan(common.closed(rows([(0, 0, 'base', .5), (0, 0, 'mine', .6), (0, 0, 'full', .5)]), 'mine', 'base', 'full', 'auroc'))


def test_tuned_baseline_is_chosen_on_validation():
    frame = rows([(0, 0, 'baseline', .5), (0, 0, 'baseline at 100', .6), (0, 0, 'ACAA', .9)])
    frame.loc[frame['variant'] == 'baseline at 100', 'auroc'] = .1          # worse on the test part
    best = few_labels.tuned(frame, 'baseline')
    assert best['auroc'].tolist() == [.1] and best['variant'].tolist() == ['baseline, steps tuned']
    assert few_labels.tuned(pd.concat([frame, rows([(1, 0, 'baseline', .5)])]), 'baseline')['fold'].tolist() == [0]   # one number of steps is no choice
    assert not len(few_labels.tuned(rows([(0, 0, 'baseline', .5)]), 'baseline'))


@pytest.mark.parametrize('module,more', [(few_labels, {}), (few_labels, dict(regime='single-positive', tune=[5])), (correlations, {}), (correlations, dict(method='can')), (long_tail, {})])
def test_every_run_has_one_key(module, more):
    o = asked(**more)
    jobs = module.jobs_of(o)
    assert len({tuple(map(str, j['key'].values())) for j in jobs}) == len(jobs)
    for job in jobs: assert set(job['key']) | set(common.SETTINGS) == set(common.KEY)


def test_a_command_takes_up_its_own_runs_and_loses_none(tmp_path):
    o = asked(out=tmp_path/'runs.csv', report_only=False, regime='fraction', folds=[0], draws=1, jobs=1)
    jobs = few_labels.jobs_of(o)
    for job in jobs: job['key'].update({name: getattr(o, name) for name in common.SETTINGS})
    kept = [dict(job['key'], auroc=.5, ap=.2, steps_done=10) for job in jobs[:-1]]
    other = dict(kept[0], size=64)
    pd.DataFrame([other, *kept]).to_csv(o.out, index=False)
    o.report_only = True
    frame = common.run_all(o, jobs)
    assert len(frame) == len(jobs) and len(common.of_jobs(frame, jobs)) == len(jobs) - 1


def test_one_new_run_is_appended(tmp_path):
    o = asked(out=tmp_path/'runs.csv', report_only=False, folds=[0], draws=1, variants=['base', 'whole'])
    first, second = lcc_folds.jobs_of(Namespace(**{**vars(o), 'repeats': 1}))
    pd.DataFrame([dict(first['key'], **{name: getattr(o, name) for name in common.SETTINGS}, auroc=.5, ap=.2)]).to_csv(o.out, index=False)
    frame = common.run_all(o, [first, second], made_up)
    assert frame['auroc'].tolist() == [.5, .7] and pd.read_csv(o.out).shape[0] == 2


def made_up(o, job): return dict(job['key'], auroc=.7, ap=.3, steps_done=10, seconds=0.)


@pytest.mark.parametrize('repeat', [0, 1])
def test_patients_are_whole_in_the_three_times_five_folds(repeat):
    o, tested = asked(size=32), []
    for fold in range(2):
        train, valid, test = lcc_folds.fold_parts(o, repeat, fold)
        who = [set(np.asarray(part.patient_id)) for part in (train, valid, test)]
        assert not who[0] & who[1] and not who[0] & who[2] and not who[1] & who[2]
        tested.append(who[2])
    assert not tested[0] & tested[1]


def test_repeats_deal_the_patients_anew():
    o = asked(size=32)
    a, b = (set(np.asarray(lcc_folds.fold_parts(o, repeat, 0)[2].patient_id)) for repeat in (0, 1))
    assert a != b


def test_the_interval_of_the_folds_knows_of_their_overlap():
    rng = np.random.default_rng(0)
    values = [(f, d, v, .5 + .1*(v == 'whole') + .02*rng.normal()) for d in range(3) for f in range(5) for v in ('base', 'whole')]
    frame = rows(values).assign(f1=.1)
    text = lcc_folds.tables(asked(variants=['base', 'whole']), frame)
    wide = frame.pivot_table(index=['draw', 'fold'], columns='variant', values='auroc')
    low, high = common.t_interval(wide['whole'] - wide['base'])[1:]
    shown = text.splitlines()[-1].split('|')[6]
    told_low, told_high = (float(v) for v in shown[shown.index('[') + 1:shown.index(']')].split(','))
    assert told_high - told_low > 1.5*(high - low) and told_low > 0
