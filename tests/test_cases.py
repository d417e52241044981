"""One image under one or two models, many images under thresholds, and the bench on top."""
import io
from types import SimpleNamespace
import numpy as np, pytest, torch
from PIL import Image
from cxr_workbench import arrivals, cases, outcomes, workbench
from cxr_workbench.core import create_method, seed_all
from cxr_workbench.data import from_phantom
from cxr_workbench.learner import find_model, load
from cxr_workbench.phantom import SyntheticCXR


@pytest.fixture(scope='module')
def phantom(): return SyntheticCXR(60, size=64, seed=11)
@pytest.fixture(scope='module')
def lcc(): return load(find_model('lcc'))
@pytest.fixture(scope='module')
def reference(lcc, phantom): return cases.score_reference(lcc, from_phantom(phantom), n_boot=0)


def test_reference_images_are_spread_over_the_rows_and_keep_their_labels(lcc, phantom):
    data = from_phantom(phantom)
    some = cases.score_reference(lcc, data, most=7, n_boot=0)
    rows = [0, 9, 19, 29, 39, 49, 59]
    assert some.scores.shape == (7, 14) and torch.equal(some.data.y, data.y[rows])


def test_a_model_with_other_labels_is_matched_by_name(phantom):
    data, mpc = from_phantom(phantom), load(find_model('mpc'))
    found = cases.score_reference(mpc, data, n_boot=0)
    assert list(found.data.label_names) == list(mpc.label_names)
    c, k = mpc.label_names.index('Edema'), data.label_names.index('Edema')
    assert torch.equal(found.data.y[:, c], data.y[:, k])
    strange = data.copy_with(label_names=[f'x{k}' for k in range(14)])
    with pytest.raises(ValueError, match='none of the labels'): cases.score_reference(mpc, strange)


def test_standing_counts_the_images_that_score_lower(lcc, reference):
    x = reference.data.batch([3]).x
    table = cases.measure_standing(lcc, x, reference)
    c = lcc.label_names.index('Edema')
    y, own = reference.data.y[:, c].numpy(), float(reference.scores[3, c])
    for state, column in ((0, 'above_absent'), (1, 'above_present')):
        mine = reference.scores[y == state, c]
        wanted = ((mine < own - 1e-6).sum() + (np.abs(mine - own) <= 1e-6).sum()/2)/len(mine)
        assert np.isclose(table.loc['Edema', column], wanted, atol=1/len(mine))
    assert np.isclose(table.loc['Edema', 'score'], own, atol=1e-5)


def test_bars_are_those_of_the_label_beside_them_where_a_label_is_left_out(lcc, reference):
    table = cases.measure_standing(lcc, reference.data.batch([3]).x, reference)
    whole = cases.show_standing({'lcc': table}, {'lcc': reference})
    fewer = cases.show_standing({'lcc': table.drop('No Finding')}, {'lcc': reference})
    def read(figure):   # label -> ranks of its bars and of the image
        names, bars = figure.layout.yaxis.ticktext, {}
        for trace in figure.data:
            for y, x in zip(trace.y, trace.x):
                if y is None: continue   # between two bars
                name = names[round(float(y))]
                bars.setdefault(name, []).append(float(x))
        return bars
    one, other = read(whole), read(fewer)
    del one['No Finding']
    assert other == one


def test_a_constant_model_stands_in_the_middle_not_at_the_bottom():
    assert cases.share_below(.3, np.full(9, .3)) == .5


@pytest.mark.parametrize('family', ['FGSM', 'I-FGSM', 'MI-FGSM', 'NI-FGSM', 'PI-FGSM', 'GNI-FGSM', 'PGD'])
@pytest.mark.parametrize('lower', [False, True])
def test_a_film_keeps_to_its_budget_and_moves_its_label(lcc, reference, family, lower):
    seed_all(0)
    x, eps = reference.data.batch([5]).x, 6/255
    film = cases.film_attack(lcc, x, 'Edema', lower, eps, 3, family)
    assert len(film.images) == (2 if family == 'FGSM' else 4) == len(film.scores)
    assert torch.equal(film.images[0], x[0]) or family == 'PGD'   # PGD starts at random
    assert (film.images - x).abs().max() <= eps + 1e-6
    assert 0 <= film.images.min() and film.images.max() <= 1
    c = lcc.label_names.index('Edema')
    move = film.scores[-1, c] - cases.score_batch(lcc, x)[0, c]
    assert move < 0 if lower else move > 0


def test_no_budget_is_a_film_of_the_clean_image(lcc, reference):
    film = cases.film_attack(lcc, reference.data.batch([5]).x, 'Edema', eps=0.)
    assert (film.images == film.images[:1]).all() and not cases.find_flips(film)


@pytest.mark.parametrize('asked, message', [
    (dict(label='Flu'), "no label 'Flu'"), (dict(label='Edema', family='CW'), "no family 'CW'")])
def test_what_cannot_be_attacked_is_refused(lcc, reference, asked, message):
    with pytest.raises(ValueError, match=message): cases.film_attack(lcc, reference.data.batch([5]).x, **asked)


def test_an_empty_map_is_said_to_be_one(reference):
    class Silent(torch.nn.Module):   # nothing raises its scores
        label_names, config, reading = ['Edema'], None, None
        def forward(self, x): return -x.flatten(1).sum(1, keepdim=True)
        def look(self, x): return self(x), {}
    model = Silent()
    model.register_parameter('unused', torch.nn.Parameter(torch.zeros(1)))
    figure = cases.show_maps({'silent': model}, reference.data.batch([5]).x, 'Edema', 'integrated_gradients')
    assert figure.layout.title.text == 'empty: nothing raises the score'
    assert figure.layout.annotations[0].text.endswith(', empty')


def test_the_nearest_neighbour_is_the_image_itself_unless_its_patient_is_left_out(lcc, reference):
    x, patient = reference.data.batch([8]).x, reference.data.patient_id[8]
    rows, cosine = cases.find_neighbours(lcc, x, reference)
    assert rows[0] == 8 and np.isclose(cosine[0], 1, atol=1e-5) and (np.diff(cosine) <= 1e-9).all()
    rows, _ = cases.find_neighbours(lcc, x, reference, patient=patient)
    assert len(rows) and all(reference.data.patient_id[row] != patient for row in rows)


def test_no_dose_is_the_image_without_the_finding(lcc, phantom):
    c = phantom.label_names.index('Edema')
    row = int(np.flatnonzero(np.asarray(phantom.labels)[:, c] == 0)[0])
    scores = cases.measure_dose(lcc, phantom, row, 'Edema', (0., 1.))
    x = torch.as_tensor(phantom.render(row)[0])[None, None]
    assert np.allclose(scores[0], cases.score_batch(lcc, x)[0], atol=1e-4)
    assert scores[1, lcc.label_names.index('Edema')] > scores[0, lcc.label_names.index('Edema')]


def test_every_known_entry_has_one_outcome(reference):
    y, known = reference.data.y, reference.data.known.clone()
    known[::3] = False
    partly = reference._replace(data=reference.data.with_labels(y*known, known))
    parts = outcomes.sort_entries(partly, .6, .2)
    assert np.array_equal(sum(part.astype(int) for part in parts.values()), known.numpy().astype(int))
    called = parts['present, right'] | parts['present, wrong']
    assert np.array_equal(called, (reference.scores >= .6) & known.numpy())
    with pytest.raises(ValueError, match='thresholds cross'): outcomes.sort_entries(reference, .2, .2)


def test_images_behind_a_count_are_of_it_and_in_order(reference):
    parts = outcomes.sort_entries(reference, .5, .3)
    c = list(reference.data.label_names).index('Lung Opacity')
    for name, part in parts.items():
        rows = outcomes.find_behind(reference, parts, name, 'Lung Opacity', most=50)
        assert sorted(rows) == sorted(np.flatnonzero(part[:, c]))[:50]
        sign = 1 if name.startswith('absent') else -1
        assert (np.diff(sign*reference.scores[rows, c]) >= 0).all()
    with pytest.raises(ValueError, match='no outcome'): outcomes.find_behind(reference, parts, 'maybe', 'Edema')


def test_declared_relations_stand_under_the_names_of_the_model(phantom):
    mpc = load(find_model('mpc'))
    reference = cases.score_reference(mpc, from_phantom(phantom), n_boot=0)
    tables, names, mine = outcomes.relate_labels(reference, phantom), list(mpc.label_names), phantom.label_names
    i, j = names.index('Edema'), names.index('Cardiomegaly')
    assert tables['declared'][i, j] == phantom.true_corr[mine.index('Edema'), mine.index('Cardiomegaly')]
    assert all(table.shape == (len(names),)*2 for table in tables.values())


@pytest.fixture(scope='module')
def bench(phantom):
    runs = {name: find_model(name) for name in ('supervised', 'mpc')}
    return workbench.Workbench(workbench.Bench(phantom, runs))


def test_only_the_panel_in_sight_is_drawn(bench):
    drawn = [name for name, panel in bench.panels.items() if panel.pictures.children]
    assert drawn == ['scores']


@pytest.mark.parametrize('name', list(workbench.PANELS))
def test_every_panel_is_drawn_without_an_error(bench, name):
    bench.tabs.selected_index = list(bench.panels).index(name)
    panel = bench.panels[name]
    if name == 'relations': panel.controls['table'].value = 'correlations'
    assert panel.message.value == '' and panel.pictures.children and all(p.spec for p in panel.pictures.children)


def test_labels_are_those_that_both_models_have(bench):
    assert 'No Finding' not in bench.menus['label'].options
    bench.menus['second'].value = ''
    assert 'No Finding' in bench.menus['label'].options
    bench.menus['second'].value = 'mpc'


def test_a_reason_is_written_and_the_pictures_go(bench):
    bench.tabs.selected_index = list(bench.panels).index('relations')
    panel = bench.panels['relations']
    before = len(panel.pictures.children)
    panel.controls['table'].value = 'learned'
    assert 'neither model keeps a table' in panel.message.value
    assert [picture.words for picture in panel.pictures.children] == ['no picture of this choice']
    panel.controls['table'].value = 'correlations'
    assert panel.message.value == '' and len(panel.pictures.children) == before


def drop(bench, name, content):
    bench.drop(dict(new=[dict(name=name, content=memoryview(content))]))


def test_a_dropped_file_is_looked_at_until_another_row_is_chosen(bench, phantom):
    bench.tabs.selected_index = 0
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(phantom.images[4])).save(buffer, 'png')
    drop(bench, 'mine.png', buffer.getvalue())
    assert 'is a file' in bench.note.value and bench.choose().row is None
    assert np.allclose(bench.choose().x[0, 0]*255, phantom.images[4], atol=.5)
    drop(bench, 'notes.txt', b'not an image')
    assert 'notes.txt' in bench.note.value and 'cxr' not in bench.note.value   # its name, not a temporary path
    bench.menus['row'].value = 9
    assert bench.choose().row == 9 and torch.equal(bench.choose().x, bench.bench.data.batch([9]).x)


def test_a_file_that_is_too_large_is_refused(lcc):
    with pytest.raises(ValueError, match='at most 1 are read'):
        workbench.read_dropped(lcc, b'0'*2_000_000, 'huge.png', most=1e6)


def test_runs_come_as_folders_methods_and_names(tmp_path, phantom):
    seed_all(0)
    own = create_method('supervised', labels=phantom.label_names, size=64, preset='tiny')
    bench = workbench.Bench(phantom, {'own': own})
    assert bench.load('own') is own and bench.list_labels('own') == list(own.label_names)
    assert list(arrivals.list_runs([tmp_path/'one', tmp_path/'two'])) == ['one', 'two']
    with pytest.raises(ValueError, match='no run'): arrivals.list_runs([])
    small = create_method('supervised', labels=phantom.label_names, size=32, preset='tiny')
    with pytest.raises(ValueError, match='open the data with size=32'): workbench.Bench(phantom, {'s': small}).load('s')


def test_images_behind_a_pair_of_labels_are_those_on_which_both_are_known():
    "Six images: both, both, first alone, second alone, neither, and one whose second label is not known."
    first, second = [1, 1, 1, 0, 0, 1], [1, 1, 0, 1, 0, 0]
    y = torch.tensor([first, second]).T.float()
    known = torch.ones_like(y, dtype=torch.bool)
    known[5, 1] = False
    data = SimpleNamespace(label_names=['a', 'b'], y=y, known=known)
    scores = np.array([[.2, .9, .5, .5, .5, .7], [.3, .3, .5, .5, .5, .5]]).T
    reference = cases.Reference(data, scores, None, None)
    found = {name: rows.tolist() for name, rows in outcomes.find_pairs(reference, 'a', 'b').items()}
    assert found == {'both': [1, 0], 'the first alone': [2], 'the second alone': [3]}
    assert outcomes.find_pairs(reference, 'a')['both'].tolist() == [1, 5, 2, 0]
    assert outcomes.find_pairs(reference, 'a', 'a')['both'].tolist() == [1, 5, 2, 0]
    with pytest.raises(ValueError, match='no labels'): outcomes.find_pairs(reference, 'a', 'c')
    with pytest.raises(ValueError, match='no kind'): outcomes.show_pairs(reference, 'a', 'b', 'neither')


def test_the_plot_of_scores_names_its_reference_and_prints_what_it_shows(lcc, phantom):
    few = cases.score_reference(lcc, from_phantom(phantom), most=12, n_boot=0, kind='held-out')
    table = cases.measure_standing(lcc, few.data.batch([3]).x, few).iloc[:3]
    figure = cases.show_standing({'lcc': table}, {'lcc': few})
    assert figure.layout.xaxis.title.text == 'rank among 12 held-out images'
    assert list(figure.layout.xaxis.ticktext) == ['0', '12']
    texts = [list(trace.text) for trace in figure.data if trace.mode == 'text']
    assert texts[0] == [f'{score:.2f}' for score in table.score]
    assert all(text.endswith(' of 12') for text in texts[1])
    for name, text in zip(table.index, figure.layout.yaxis.ticktext):
        positives = int(few.data.y[:, few.data.label_names.index(name)].sum())
        assert positives >= cases.FEW or f'{positives or "none"} with it' in text
    assert figure.layout.legend.yref == 'container'   # below the ticks and the title of the axis, whatever the height


def test_few_images_are_drawn_one_by_one(lcc, reference):
    rare = [name for c, name in enumerate(lcc.label_names) if 0 < reference.data.y[:, c].sum() < cases.FEW]
    table = cases.measure_standing(lcc, reference.data.batch([3]).x, reference).loc[rare[:1]]
    figure = cases.show_standing({'lcc': table}, {'lcc': reference})
    drawn = [trace for trace in figure.data if trace.name == 'with it']
    positives = reference.data.y[:, lcc.label_names.index(rare[0])].sum()
    assert drawn[0].mode == 'markers' and len(drawn[0].x) == positives
