"Samplers and loaders: properties on random masks, and the labels of real images."
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from cxr_workbench.data import batch_sampler, dataloaders, from_arrays, from_npz
from cxr_workbench.labels import keep_fraction


def make_data(n, labels=3, **kw):
    "n random images of 8 x 8 pixels; every label is known."
    rng = np.random.default_rng(n)
    images = rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return from_arrays(images, rng.integers(0, 2, (n, labels)), **kw)


# ---- samplers

def random_mask(arguments):
    rows, seed = arguments
    return np.random.default_rng(seed).random((rows, 3)) < .3


masks = st.tuples(st.integers(1, 60), st.integers(0, 10**6)).map(random_mask)
kinds = st.sampled_from(['known', 'all', 'mixed'])


@given(masks, kinds, st.integers(2, 12), st.integers(1, 3), st.integers(0, 3))
def test_every_rank_gets_as_many_batches_and_epochs_can_be_drawn_again(known, kind, size, world, seed):
    known[0] = True
    def draw(rank, epoch):
        sampler = batch_sampler(known, kind, size, seed, rank, world)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) > 0
        return batches
    labelled = known.any(1)
    pool = len(known) if kind == 'all' else labelled.sum() if kind == 'known' or labelled.all() else world
    if pool < world:
        with pytest.raises(ValueError, match='one of them would have none'): draw(0, 1)
        return
    ranks = [draw(rank, 1) for rank in range(world)]
    assert len({tuple(map(len, batches)) for batches in ranks}) == 1
    assert ranks[0] == draw(0, 1)
    rows = np.concatenate([np.ravel(batches) for batches in ranks])
    if kind != 'mixed': assert len(set(rows.tolist())) == len(rows)
    if kind == 'known': assert known[rows].any(1).all()


def test_an_epoch_of_known_rows_is_a_fresh_pass():
    known = np.zeros((50, 2), bool)
    known[::2, 1] = True
    sampler = batch_sampler(known, 'known', 10)
    first, again = list(sampler), list(sampler)
    sampler.set_epoch(1)
    assert first == again != list(sampler) and len(sampler) == 2
    assert list(batch_sampler(known, 'known', 10, seed=1)) != first
    assert len(list(batch_sampler(known, 'known', 64))[0]) == 25  # fewer rows than a batch: one batch of all


def ten_labelled(rows=110):
    "A mask in which the first ten rows have a known entry."
    known = np.zeros((rows, 2), bool)
    known[:10, 0] = True
    return known


def mixed(**kw): return np.array(list(batch_sampler(ten_labelled(), 'mixed', 20, labelled=5, **kw)))


def test_mixed_batches_count_and_start_again():
    batches = mixed()
    assert batches.shape == (6, 20)
    assert (batches[:, :5] < 10).all() and (batches[:, 5:] >= 10).all()
    assert len(np.unique(batches[:, 5:])) == 90                                # no unlabelled row twice in an epoch
    assert np.bincount(batches[:, :5].ravel()).tolist() == [3]*10              # 30 draws of 10 rows: three shuffles
    longer = mixed(steps=40)
    assert len(longer) == 40 and np.ptp(np.bincount(longer.ravel())[10:]) == 0  # 600 draws of 100 rows


def test_two_processes_share_the_unlabelled_rows():
    halves = [mixed(rank=rank, world=2) for rank in (0, 1)]
    assert [half.shape for half in halves] == [(3, 20)]*2
    assert not set(halves[0][:, 5:].ravel()) & set(halves[1][:, 5:].ravel())


def test_mixed_without_unlabelled_rows_is_known():
    known = np.ones((30, 2), bool)
    assert list(batch_sampler(known, 'mixed', 8, seed=5)) == list(batch_sampler(known, 'known', 8, seed=5))


def test_samplers_that_have_nothing_to_draw():
    known = np.zeros((9, 2), bool)
    for kind in ('known', 'mixed'):
        with pytest.raises(ValueError, match='no row has a known entry'): batch_sampler(known, kind)


@pytest.mark.parametrize('wrong', [
    dict(kind='mixed', batch_size=8, labelled=8), dict(kind='mixed', batch_size=8, labelled=0),
    dict(kind='knwon'), dict(kind='known', world=2)])
def test_samplers_that_cannot_be_made(wrong):
    known = np.zeros((9, 2), bool)
    known[0] = True
    with pytest.raises(ValueError): batch_sampler(known, **wrong)


def test_sequential_ranks_cover_everything():
    known = np.zeros((11, 1), bool)
    ranks = [sum(batch_sampler(known, 'sequential', 4, rank=rank, world=3), []) for rank in range(3)]
    assert [len(rows) for rows in ranks] == [4]*3 and sorted({*sum(ranks, [])}) == list(range(11))


def test_lightning_finds_set_epoch():
    sampler = batch_sampler(np.ones((9, 1), bool), 'all', 3)
    sampler.sampler.set_epoch(4)
    assert sampler.epoch == 4


# ---- loaders

@pytest.mark.parametrize('workers', [0, 2])
def test_loaders_yield_the_rows_of_the_sampler(workers):
    data = make_data(40, patient_id=np.arange(40)//2)
    parts = data.subset(range(30)), data.subset(range(30, 40))
    loaders = dataloaders(*parts, batch_size=8, sampler='all', seed=3, workers=workers)
    rows = [batch.idx.tolist() for batch in loaders['train']]
    assert rows == list(batch_sampler(data.known[:30], 'all', 8, seed=3))
    assert torch.equal(torch.cat([b.x for b in loaders['valid']]), data.batch(range(30, 40)).x)


def test_a_loader_draws_the_epoch_that_it_is_given():
    loader = dataloaders(make_data(40), batch_size=8, sampler='all', seed=3)['train']
    def rows(epoch):
        loader.batch_sampler.set_epoch(epoch)
        return [batch.idx.tolist() for batch in loader]
    assert rows(0) == rows(0) != rows(1)


def test_processes_share_a_pass():
    data = make_data(40)
    loaders = [dataloaders(data, data, 8, 'all', rank=rank, world=2, check=False) for rank in (0, 1)]
    for part, in_all in (('train', 32), ('valid', 40)):
        ranks = [torch.cat([batch.idx for batch in loader[part]]).tolist() for loader in loaders]
        assert len(set(sum(ranks, []))) == len(sum(ranks, [])) == in_all


def test_generated_images_are_not_held_out():
    data = make_data(10, patient_id=np.arange(10), synthetic=np.arange(10) > 6)
    with pytest.raises(ValueError, match='3 of the 5 held-out images are generated'):
        dataloaders(data.subset(range(5)), data.subset(range(5, 10)))
    assert len(dataloaders(data.subset(range(4, 10)), data.subset(range(4)), batch_size=2)['valid']) == 2


def test_loaders_refuse_a_patient_in_both_parts_and_other_labels():
    data = make_data(10, patient_id=np.arange(10)//2)
    with pytest.raises(ValueError, match='1 patients are in both parts: 2'):
        dataloaders(data.subset(range(5)), data.subset(range(5, 10)))
    other = make_data(10, label_names=['a', 'b', 'c'])
    with pytest.raises(ValueError, match='different labels'): dataloaders(data, other)


def test_loaders_may_leave_the_checks_to_their_caller():
    data = make_data(6, patient_id=np.arange(6)//2)
    with pytest.raises(ValueError, match='both parts'): dataloaders(data, data, batch_size=2)
    loaders = dataloaders(data, data, batch_size=2, sampler='all', check=False)
    assert {name: len(loader) for name, loader in loaders.items()} == dict(train=3, valid=3)


def test_mixed_batches_of_real_images(cxr_data):
    data = from_npz(cxr_data/'nih14'/'images_64.npz', cxr_data/'nih14'/'subset.csv')
    tenth = data.with_labels(*keep_fraction(data.y, data.patient_id, .1, seed=0))
    batches = list(dataloaders(tenth, batch_size=64, sampler='mixed', labelled=16)['train'])
    assert len(batches) == (~tenth.known.any(1)).sum()//48
    assert all(batch.known.any(1).sum() == 16 for batch in batches)
