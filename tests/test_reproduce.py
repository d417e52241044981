"Protocols of the five papers: whose word they are, what they run, and what stands beside the published number."
import json, subprocess, sys, warnings
from dataclasses import replace
from pathlib import Path
import nbformat, numpy as np, pandas as pd, pytest
from PIL import Image
from sklearn.metrics import f1_score
from typer.testing import CliRunner
from cxr_workbench import protocols, reproduce as page
from cxr_workbench.cli import app
from cxr_workbench.metrics import corrected_interval
from cxr_workbench.obtained import Scored, bootstrap_f1, compare_published, format_markdown, measure_scores, pool_runs
from cxr_workbench.phantom import SyntheticCXR
from cxr_workbench.protocols import PAPERS, SETTINGS, change_protocol, choose_protocol, list_differences, list_facts
from cxr_workbench.reproduce import Run, collect_parts, list_runs, make_plan, name_folder, open_collected, open_variant
from cxr_workbench.trees import TREES, make_tree

ROOT = Path(__file__).resolve().parent.parent
ALL = [(paper, setting) for paper, settings in SETTINGS.items() for setting in settings]
QUIET = dict(progress=False, device='cpu', n_boot=20, say=lambda line: None)


@pytest.fixture(scope='module')
def trees(tmp_path_factory):
    "A made copy of each collection."
    home = tmp_path_factory.mktemp('trees')
    return {layout: make_tree(layout, home/layout, n=150, size=24) for layout in TREES}


# ---- made copies ----

def test_headers_are_those_of_the_collections(trees):
    def head(path): return pd.read_csv(path, nrows=0, dtype=str).columns.tolist()
    first = (trees['nih14']/'Data_Entry_2017_v2020.csv').read_text().splitlines()[0]
    assert first == ('Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,'
                     'OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]')
    chexpert = head(trees['chexpert']/'CheXpert-v1.0-small'/'train.csv')
    assert chexpert[:6] == ['Path', 'Sex', 'Age', 'Frontal/Lateral', 'AP/PA', 'No Finding']
    assert len(chexpert) == 19 and len(head(trees['mimic_cxr']/'mimic-cxr-2.0.0-metadata.csv.gz')) == 12
    padchest = head(trees['cxr_lt_2026']/'PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv')
    assert len(padchest) == 36 and padchest[1:6] == ['ImageID', 'ImageDir', 'StudyDate_DICOM', 'StudyID', 'PatientID']
    assert len(head(trees['cxr_lt_2026']/'train.csv')) == 33


def test_depth_and_identifiers_are_as_there(trees):
    file = next(trees['cxr_lt_2026'].glob('0/*.png'))
    pixels = np.asarray(Image.open(file))
    assert Image.open(file).mode.startswith('I') and 255 < pixels.max() <= 4095
    rounded = pd.read_csv(trees['cxr_lt_2026']/'train.csv', dtype=str).PatientID
    assert rounded.str.fullmatch(r'\d\.\d\dE\+38').all() and rounded.nunique() < 10
    assert Image.open(next(trees['chexpert'].rglob('*.jpg'))).format == 'JPEG'


def test_a_copy_is_made_once_and_never_among_other_files(tmp_path, trees):
    (tmp_path/'note.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='other files'): make_tree('nih14', tmp_path)
    with pytest.raises(ValueError, match="'nih14'"): make_tree('nih15', tmp_path/'new')
    made = make_tree('nih14', tmp_path/'tree', n=20, size=16)
    before = (made/'test_list.txt').stat().st_mtime_ns
    assert make_tree('nih14', made, n=20, size=16) == made and (made/'test_list.txt').stat().st_mtime_ns == before
    (made/'MADE.txt').write_text('cut off')
    make_tree('nih14', made, n=20, size=16)
    assert 'nih14, 20 images' in (made/'MADE.txt').read_text()
    make_tree('nih14', made, n=30, size=16)
    assert len(list(made.rglob('*.png'))) == 30


def test_uncertain_is_what_is_mild(trees):
    phantom = SyntheticCXR(150, size=24, seed=0)
    table = pd.read_csv(trees['chexpert']/'CheXpert-v1.0-small'/'train.csv')
    severity = phantom.severity[:len(table), 4]
    said = table['Lung Lesion' if phantom.label_names[4] == 'Lung Lesion' else phantom.label_names[4]]
    mild = (severity > 0) & (severity < .3)
    assert ((said == -1) == mild).all() and ((said == 1) == (severity >= .3)).all()


# ---- protocols ----

@pytest.mark.parametrize('paper, setting', ALL)
def test_every_item_says_whose_word_it_is(paper, setting):
    protocol = choose_protocol(paper, setting)
    for name, fact in list_facts(protocol).items():
        assert fact.tag in ('paper', 'related', 'inferred') and fact.why, name
        if fact.tag == 'paper': assert fact.why.startswith(('abstract', 'introduction', 'official code')), name
    assert protocol.split.value in protocols.SPLITS and set(protocol.metrics.value) <= set(protocols.METRICS)
    assert {each.metric for each in protocol.published} <= set(protocol.metrics.value)
    assert not protocol.published or setting == next(iter(SETTINGS[paper]))   # of the paper's own experiment alone


def test_published_numbers():
    said = {paper: {each.metric: each.value for each in protocol.published} for paper, protocol in PAPERS.items()}
    tail = {'mAP': .4408, 'mAUC': .8989, 'macro-F1': .4369, 'tail mAP': .4904, 'tail mAUC': .9229}
    lcc = {'macro-F1': .446, 'mAUC': .765}
    assert said == {'mpc': {}, 'acaa': {}, 'lcc': lcc, 'trcgl': tail, 'can': {'mAUC': .817}}


@pytest.mark.parametrize('paper', PAPERS)
def test_settings_and_recipe_are_taken_by_the_method(paper):
    protocol = replace(PAPERS[paper], backbone=protocols.Fact('test_resnet', 'yours', ''))
    protocol = replace(protocol, weights=protocols.Fact('none', 'yours', ''))
    variants = page.list_variants(protocol)
    assert protocol.baseline in variants and next(iter(variants)) == protocol.title
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)   # the small map of a small network
        stages = page.make_model(protocol, {}, ['a', 'b', 'c'], 32).recipe()
        page.make_model(protocol, variants[protocol.baseline], ['a', 'b', 'c'], 32)
    assert sum(stage.epochs for stage in stages) in (protocol.epochs.value, 20, 30, 5)
    rates = [[group[1] for group in stage.groups] for stage in stages]
    wanted = {'acaa': [[1e-4]], 'lcc': [[1e-5, 1e-4]], 'can': [[1e-4]]}
    wanted |= {'mpc': [[1e-3, 1e-3, 1e-4]], 'trcgl': [[1e-3], [1.5e-5, 1.5e-4]]}
    assert rates == wanted[paper]
    if paper == 'trcgl': assert [stage.epochs for stage in stages] == [10, 50] and stages[1].ema == .9999


@pytest.mark.parametrize('name, message', [
    ('cna', 'did you mean can?'), ('supervised', 'there are mpc, acaa, lcc, trcgl, can')])
def test_a_paper_that_is_not_there(name, message):
    with pytest.raises(ValueError, match=message.replace('?', r'\?')): choose_protocol(name)


def test_what_is_given_is_a_difference():
    changed = change_protocol(PAPERS['can'], size=64, epochs=None, backbone='resnet18')
    assert changed.epochs is PAPERS['can'].epochs and changed.size.value == 64
    rows = list_differences(changed).why.to_dict()
    assert rows['size: 64'] == 'the protocol has 224' and rows['backbone: resnet18'] == 'the protocol has densenet121'
    assert '1 of 15 runs' in list_differences(PAPERS['lcc'], 1).index
    assert '15 of 15 runs' not in list_differences(PAPERS['lcc'], 15).index


# ---- rows and parts ----

@pytest.mark.parametrize('paper, setting', ALL)
def test_parts_keep_patients_apart_and_labels_whole(trees, paper, setting):
    protocol = change_protocol(choose_protocol(paper, setting), size=16)
    opened = open_collected(protocol, collect_parts(protocol, trees[protocol.data.value]))
    train, valid, test = page.split_parts(protocol, opened, list_runs(protocol)[0])
    people = [set(part.patient_id.tolist()) for part in (train, valid, test) if part is not None]
    assert not people[0] & people[1] and not people[0] & people[-1]
    assert test.known.all() and (valid is None or valid.known.all())
    known = train.known.float().mean()
    if 'single' in setting or paper == 'mpc': assert (train.known.sum(1) <= 1).all() and train.y[train.known].all()
    elif protocol.regime.value['regime'] == 'fraction':
        assert len(np.unique(train.patient_id[train.known.any(1)])) == pytest.approx(
            max(1, round(protocol.regime.value['fraction']*len(people[0]))))
    else: assert known == 1
    if paper == 'trcgl' and setting == 'validation': assert test is valid


def test_folds_cover_every_row_once(trees):
    protocol = change_protocol(PAPERS['lcc'], size=16)
    opened = open_collected(protocol, collect_parts(protocol, trees['chexpert']))
    runs = list_runs(protocol)
    assert len(runs) == 15 and len({run.name for run in runs}) == 15 and list_runs(protocol, 2) == runs[:2]
    rows = [page.split_parts(protocol, opened, run)[2].rows.tolist() for run in runs[:10]]
    whole = list(range(len(opened['train'])))
    assert sorted(sum(rows[:5], [])) == whole and sorted(sum(rows[5:], [])) == whole
    assert rows[0] != rows[5]   # another repetition has other folds
    with pytest.raises(ValueError, match='at least one'): list_runs(protocol, 0)


def test_uncertain_entries_by_the_protocol(trees):
    def open_train(protocol):
        return open_collected(change_protocol(protocol, size=16), collect_parts(protocol, trees['chexpert']))['train']
    first, second = open_train(PAPERS['lcc']).y[:, 1:], open_train(PAPERS['mpc']).y
    assert second.shape[1] == 13 and (second <= first).all() and first.sum() > second.sum()


def test_a_pack_is_read_in_place_of_the_files(trees, tmp_path):
    from cxr_workbench.files import pack
    protocol = change_protocol(PAPERS['can'], size=16)
    paths = open_collected(protocol, collect_parts(protocol, trees['nih14']))
    packed = pack(paths['train'].paths + paths['test'].paths, tmp_path/'pack', size=16, fit='crop')
    opened = open_collected(protocol, collect_parts(protocol, trees['nih14'], files=False), packed)
    first, second = (data['train'].batch([3]).x for data in (opened, paths))
    assert (first - second).abs().max() < .01
    with pytest.raises(ValueError, match='give --size 16'):
        open_collected(PAPERS['can'], collect_parts(PAPERS['can'], trees['nih14'], files=False), packed)


def test_a_lost_file_is_said_before_training(tmp_path):
    root = make_tree('nih14', tmp_path/'nih', n=40, size=16)
    next(root.glob('images_001/images/*.png')).unlink()
    with pytest.raises(FileNotFoundError, match='1 of '): make_plan('can', root)
    with pytest.warns(UserWarning, match='1 of '): plan = make_plan('can', root, missing='skip')
    assert sum(len(each.table) for each in plan.collected.values()) == 39
    with pytest.raises(ValueError, match='--images'): make_plan('can', root, images=tmp_path)


def test_tables_of_the_challenge_may_lie_apart(trees, tmp_path):
    for name in ('train.csv', 'test.csv'): (tmp_path/name).write_text((trees['cxr_lt_2026']/name).read_text())
    plan = make_plan('trcgl', tmp_path, images=trees['cxr_lt_2026'])
    assert len(plan.collected['train'].table) == len(pd.read_csv(tmp_path/'train.csv'))
    with pytest.raises(FileNotFoundError, match='PADCHEST'): make_plan('trcgl', tmp_path)


# ---- measures ----

@pytest.fixture
def scored():
    rng = np.random.default_rng(3)
    y = rng.random((80, 4)) < (.4, .3, .1, 0)
    probs = np.clip(.3*y + .7*rng.random(y.shape), 0, 1)
    groups = np.array(['head', 'head', 'tail', 'tail'])
    return Scored(probs, y, np.ones_like(y), np.repeat(np.arange(20), 4), groups)


def test_f1_of_a_resample_is_that_of_its_rows(scored):
    from cxr_workbench.intervals import draw_weights
    draws = bootstrap_f1(scored, .5, 6, seed=1, chunk=6)
    weights = draw_weights(np.random.default_rng(1), 20, 6)
    for draw, weight in zip(draws, weights.T):
        rows = np.repeat(np.arange(80), weight[scored.patient].astype(int))
        for c in range(3):
            assert draw[c] == pytest.approx(f1_score(scored.y[rows, c], scored.probs[rows, c] >= .5))
    assert np.isnan(draws[:, 3]).all()
    assert (bootstrap_f1(scored, .5, 4, absent=0.)[:, 3] == 0).all()
    assert bootstrap_f1(scored, .5, 0).shape == (0, 4)


def test_absent_labels_count_as_the_protocol_says(scored):
    table, skip = measure_scores(scored, 'abcd', PAPERS['can'], 50)
    assert table.skipped.tolist() == [0, 0, 0, 1]
    assert skip['mAUC'][0] == pytest.approx(table.auroc[:3].mean())
    official = measure_scores(scored, 'abcd', PAPERS['trcgl'], 50)[1]
    assert official['mAUC'][0] == pytest.approx((3*skip['mAUC'][0] + .5)/4)
    assert official['tail mAP'][0] == pytest.approx(table.ap['c']/2)
    least = measure_scores(scored, 'abcd', PAPERS['mpc'], 50)[0]
    assert (least.skipped == 1).tolist() == (least.patients < 5).tolist() and least.patients['d'] == 0


def test_means_over_runs():
    values = [.5, .6, .7, .6, .55]
    assert pool_runs(values, [[]]*5, 5) == tuple(corrected_interval(values, 1/4))
    draws = np.array([[.4, .5, .6], [.6, .7, .8]])
    assert pool_runs([.5, .7], draws) == pytest.approx((.6, .505, .695))
    assert np.isnan(pool_runs([.5], [[np.nan, np.nan, .5]])[1:]).all()   # most resamples lack a label
    assert np.isnan(pool_runs([.5], [[]])[1:]).all()


def test_a_published_number_belongs_to_the_method_alone(scored):
    measured = {name: [measure_scores(scored, 'abcd', PAPERS['can'], 20)[1]] for name in ('CAN', 'base')}
    table = compare_published(PAPERS['can'], measured).set_index(['variant', 'metric'])
    assert table.published['CAN', 'mAUC'] == .817 and table.published.isna().sum() == 3
    row = table.loc[('CAN', 'mAUC')]
    assert row.difference == pytest.approx(row.obtained - .817) and row.low < row.obtained < row.high
    assert page.compare_variants(PAPERS['can'], measured)[['difference', 'low', 'high']].eq(0).all(None)


def test_markdown_keeps_its_columns():
    text = format_markdown(pd.DataFrame({'a': ['x|y', 'z'], 'b': [.5, np.nan]}))
    assert text.splitlines() == ['| a | b |', '| --- | --- |', '| x\\|y | 0.500 |', '| z |  |']


# ---- the whole ----

@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    "paper -> its dry run, made when it is asked for."
    home, held = tmp_path_factory.mktemp('outcomes'), {}
    def get(paper):
        if paper not in held:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', UserWarning)
                held[paper] = page.reproduce(paper, dry=True, out=home/paper, **QUIET)
        return held[paper]
    return get


@pytest.mark.parametrize('paper', PAPERS)
def test_a_dry_run_takes_every_step(outcomes, paper):
    outcome, protocol = outcomes(paper), PAPERS[paper]
    assert set(outcome.table.variant) == {protocol.title, protocol.baseline}
    assert outcome.table.obtained.between(0, 1).all() and len(outcome.paired) == len(protocol.metrics.value)
    assert len(outcome.plan.runs) == min(2, len(list_runs(protocol)))
    model, history = open_variant(outcome)
    assert model.config['method'] == protocol.method and len(history) == 2
    text = outcome.files[-1].read_text()
    assert page.MADE in text and protocol.paper in text and 'size: 32' in text
    for each in protocol.published: assert f'| {each.value:.3f} |' in text
    assert all(what in text for what, _ in protocol.differs)
    assert {file.suffix for file in outcome.files} == {'.csv', '.html', '.md'}


def test_reports_name_no_patient(outcomes):
    outcome = outcomes('mpc')
    for file in outcome.files: assert 'patient0' not in file.read_text() and 'study1' not in file.read_text()
    with np.load(name_folder(outcome.plan, 'MPC')/'scored.npz') as held:
        assert held['patient'].dtype.kind == 'i' and held['patient'].min() == 0


def test_killed_it_goes_on(tmp_path, monkeypatch):
    "The second variant is broken off; the next call trains that one alone."
    trained, plain = [], page.run_variant
    def count(protocol, name, *rest, **how):
        trained.append(name)
        if trained == ['CAN', PAPERS['can'].baseline]: raise KeyboardInterrupt
        return plain(protocol, name, *rest, **how)
    monkeypatch.setattr(page, 'run_variant', count)
    monkeypatch.setattr(warnings, 'warn', lambda *a, **kw: None)
    with pytest.raises(KeyboardInterrupt): page.reproduce('can', dry=True, out=tmp_path, **QUIET)
    file = tmp_path/'can'/'run0'/'model.safetensors'
    before = file.stat().st_mtime_ns
    outcome = page.reproduce('can', dry=True, out=tmp_path, **QUIET)
    assert file.stat().st_mtime_ns == before and len(outcome.table) == 4
    again = page.reproduce('can', dry=True, out=tmp_path, **QUIET)
    assert again.table.equals(outcome.table) and again.files == outcome.files


def test_scores_of_something_else_are_not_taken(outcomes, tmp_path):
    folder = name_folder(outcomes('can').plan, 'CAN')
    with np.load(folder/'scored.npz') as held: key = str(held['key'])
    assert page.read_scored(folder/'scored.npz', key) is not None
    assert page.read_scored(folder/'scored.npz', 'another') is None
    (tmp_path/'cut.npz').write_bytes((folder/'scored.npz').read_bytes()[:300])
    assert page.read_scored(tmp_path/'cut.npz', key) is None and page.read_scored(tmp_path/'none.npz', key) is None


def test_variants_by_name():
    assert list(page.choose_variants(PAPERS['mpc'], ['WAN', 'MPC'])) == ['WAN', 'MPC']
    assert page.choose_variants(PAPERS['mpc'], ['ROLE'])['ROLE']['loss'] == 'role'
    with pytest.raises(ValueError, match='did you mean gate'): page.choose_variants(PAPERS['can'], ['gates'])


# ---- from a shell ----

def shell(*arguments, status=0):
    result = CliRunner().invoke(app, ['reproduce', *map(str, arguments)])
    assert result.exit_code == status, f'{result.output}\n{result.exception!r}'
    return result.output


def test_the_command_prints_what_it_found(tmp_path):
    out = ('--out', tmp_path/'run', '--no-progress', '--device', 'cpu', '--n-boot', 20)
    printed = shell('can', '--dry', *out, '--variant', 'CAN', '--epochs', 1)
    assert '0.817' in printed and page.MADE in printed and 'report.md' in printed and 'epochs: 1' in printed
    assert 'variants: 1, runs: 1, epochs: 1' in printed


REFUSED = [   # arguments behind `reproduce`, and the line that they end with
    ('mcp', "no paper 'mcp': did you mean mpc?"),
    ('acaa --setting chexpert-15 --dry', "no setting of acaa 'chexpert-15': did you mean chexpert-5?"),
    ('can', 'give --root, the folder of the collection, or --dry'),
    ('can --dry --root .', '--dry makes its own copy of the collection: leave --root out'),
    ('can --root nowhere', '--root nowhere: there is no such folder; it is to hold nih14'),
    ('can --root .', 'no Data_Entry_2017*.csv in .'),
    ('mpc --root .', 'no train.csv in .'),
    ('mpc --root . --setting mimic', 'no mimic-cxr-2.0.0-metadata.csv in .'),
    ('trcgl --root .', 'no PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv in .'),
    ('can --dry --backbone resnt18', '--backbone resnt18: timm has no such network; did you mean resnet18'),
    ('can --dry --weights no.pth', 'no weights at no.pth'),
    ('can --dry --precision 16', '--precision 16: give 32-true, bf16-mixed or 16-mixed'),
    ('lcc --dry --runs 0', '--runs 0: give at least one run'),
]
ASK = """
import json, sys, time
from typer.testing import CliRunner
from cxr_workbench.cli import app
said = []
for line in json.load(sys.stdin):
    start = time.process_time()
    result = CliRunner().invoke(app, ['reproduce', *line.split()])
    said.append([result.exit_code, result.output, time.process_time() - start])
print(json.dumps([said, 'torch' in sys.modules]))
"""


@pytest.fixture(scope='module')
def answers(tmp_path_factory):
    lines = [*(text for text, _ in REFUSED), *(f'{paper} --plan' for paper in PAPERS), 'acaa --plan --dry']
    done = subprocess.run([sys.executable, '-c', ASK], input=json.dumps(lines), capture_output=True, text=True,
                          cwd=tmp_path_factory.mktemp('empty'))
    assert done.returncode == 0, done.stderr
    said, torch_came = json.loads(done.stdout)
    return dict(zip(lines, said)), torch_came


@pytest.mark.parametrize('text, line', REFUSED)
def test_a_mistake_ends_in_one_line_before_torch(answers, text, line):
    status, printed, seconds = answers[0][text]
    assert status == 1 and line in printed and printed.startswith('error: ') and len(printed.splitlines()) == 1
    assert seconds < 2 and not answers[1]


@pytest.mark.parametrize('paper', PAPERS)
def test_a_plan_needs_no_torch(answers, paper):
    printed = answers[0][f'{paper} --plan'][1]
    assert PAPERS[paper].claim in printed and 'settings: ' in printed and ', '.join(SETTINGS[paper]) in printed
    for each in PAPERS[paper].published: assert f'published: {each.metric} {each.value:g}' in printed
    assert PAPERS[paper].published or 'no number is public' in printed
    assert 'passes a second' in answers[0]['acaa --plan --dry'][1] and 'passes a second' not in printed


def test_a_collection_that_is_not_whole_is_a_difference(trees):
    plan = page.make_plan('can', trees['nih14'])
    differs = page.list_differences(plan.protocol, collected=plan.collected)
    assert differs.loc['data: 150 images', 'why'] == 'officially 112,120'
    lines = page.format_plan('can', trees['nih14'])
    assert 'differs: data: 150 images (officially 112,120)' in lines
    whole = [count for count in page.list_differences(plan.protocol).index if count.startswith('data: ')]
    assert not whole   # nothing was read


def test_the_folder_of_another_collection_names_the_settings(trees):
    with pytest.raises(FileNotFoundError, match='setting chexpert of mpc reads chexpert, --setting .* chexpert, mimic'):
        page.make_plan('mpc', trees['nih14'])


def test_what_it_takes():
    plan = replace(PAPERS['can'])
    table = pd.DataFrame({'a': np.arange(1000)})
    lines = page.describe_cost(plan, {'train': page.nih_sets.Collected(table, ['a'], None)}, 1, 2)
    assert 'about 28 steps with 32 images; 35,840 images in all, through 2 network passes' in lines[1]
    assert 'about 3 minutes' in lines[2]   # 35,840 x 2 / 400 s
    assert Run(2, 4).name == 'run2_fold4' and Run(0, -1).name == 'run0'


# ---- tutorials ----

@pytest.mark.parametrize('paper', PAPERS)
def test_a_tutorial_runs_its_protocol(paper):
    cells = nbformat.read(ROOT/'nbs'/'tutorials'/f'reproduce_{paper}.ipynb', as_version=4).cells
    code = '\n'.join(cell.source for cell in cells if cell.cell_type == 'code')
    prose = '\n'.join(cell.source for cell in cells if cell.cell_type == 'markdown')
    assert 'ROOT = None   #' in code and f"reproduce('{paper}'" in code and 'views.show_' in code
    assert 'say nothing about patients' in prose and f'cxr-workbench reproduce {paper} --root' in prose
    if paper == 'can': assert '.817' in prose
    if paper == 'lcc': assert '44.6 %' in prose and '76.5 %' in prose
