"Chunks of litdata on a local folder: the images of a pack in any order, in several processes, with their table."
import pickle, sys
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from cxr_workbench.labels import LabelPolicy
from cxr_workbench.packing import pack
from cxr_workbench.packs import from_pack
from cxr_workbench.samplers import batch_sampler, make_loader
from cxr_workbench.sources import as_images
from cxr_workbench.streams import StreamedImages, from_stream, write_stream


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    "A pack of 40 images, two of which could not be read, with a table of text."
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    names, patients = ([text.format(row, row//3) for row in range(42)] for text in ('{0:02d}.png', '00{1}'))
    frame = pd.DataFrame({'path': names, 'patient_id': patients,
                          'Edema': rng.choice(['1.0', '0.0', '-1.0', ''], 42), 'Fracture': '0.0'})
    for name in frame.path: Image.fromarray(rng.integers(0, 255, (20, 18), np.uint8)).save(folder/name)
    for name in ('07.png', '31.png'): (folder/name).write_bytes(b'')
    return pack(frame, folder/'pack', 16, root=folder, workers=0)


@pytest.fixture(scope='module')
def stream(packed, tmp_path_factory):
    pytest.importorskip('litdata')
    return write_stream(packed, tmp_path_factory.mktemp('stream')/'s', chunk_mb=.002)


def test_rows_in_any_order_are_those_of_the_pack(packed, stream):
    source = StreamedImages(stream)
    assert len([*stream.glob('chunk-*.bin')]) > 3
    assert len(source) == len(packed) == 40 and source.size == 16 and source.reading == packed.reading
    rng = np.random.default_rng(1)
    some, mask = rng.integers(0, 40, 25), rng.random(40) < .3
    for rows in (some, mask, slice(5, 30, 7), [3, 3, 39], [], -1, 0):
        rows = np.array(rows, int) if isinstance(rows, list) else rows
        assert np.array_equal(source[rows], packed[rows]) and source[rows].dtype == np.uint8
    with pytest.raises(IndexError): source[40]
    assert as_images(source, size=16) is source
    with pytest.raises(ValueError, match='32'): as_images(source, size=32)


def test_a_copy_opens_the_stream_again(packed, stream):
    source = StreamedImages(stream)
    message = pickle.dumps(source)
    assert len(message) < 2000 and np.array_equal(pickle.loads(message)[[7, 2]], packed[[7, 2]])


@pytest.mark.parametrize('workers', [0, 2])
def test_batches_of_a_shuffled_epoch(packed, stream, workers):
    data = from_stream(stream)
    first = data.batch([0])                                   # opened before the workers are made
    batches = list(make_loader(data, batch_sampler(np.ones((40, 2), bool), 'all', 8, seed=2), workers))
    idx = np.concatenate([batch.idx for batch in batches])
    assert sorted(idx) == list(range(40)) and first.idx == 0
    for batch in batches:
        pixels = (batch.x[:, 0]*255).round().byte().numpy()
        assert np.array_equal(pixels, packed[batch.idx.numpy()])


def test_the_table_of_a_stream_is_that_of_its_images(packed, stream):
    policy = LabelPolicy('ignore', 'unknown')
    mine, theirs = from_stream(stream, policy=policy), from_pack(packed.folder, policy=policy)
    assert mine.fingerprint() == theirs.fingerprint() and mine.paths == theirs.paths
    assert mine.count_states().equals(theirs.count_states())
    elsewhere = from_stream(stream, table=pd.read_csv(stream/'table.csv', dtype=str), labels=['Edema'])
    assert elsewhere.label_names == ['Edema']
    with pytest.raises(ValueError, match='39 rows of the table for 40 images'):
        from_stream(stream, table=pd.read_csv(stream/'table.csv', dtype=str)[1:])


def test_what_is_refused(packed, stream, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='not empty'): write_stream(packed, stream)
    with pytest.raises(FileNotFoundError, match='write_stream'): StreamedImages(tmp_path)
    with pytest.raises(ValueError, match='local copy of its table'): from_stream('s3://bucket/folder')
    monkeypatch.setitem(sys.modules, 'litdata', None)
    with pytest.raises(ImportError, match='stream'): write_stream(packed, tmp_path/'new')


def test_a_stream_that_was_cut_off_is_none(packed, tmp_path, monkeypatch):
    pytest.importorskip('litdata')
    from litdata.streaming import Cache
    monkeypatch.setattr(Cache, 'merge', lambda self: 1/0)
    with pytest.raises(ZeroDivisionError): write_stream(packed, tmp_path/'half')
    with pytest.raises(FileNotFoundError, match='holds no stream'): StreamedImages(tmp_path/'half')


def test_a_pack_without_a_table_keeps_its_paths(packed, tmp_path):
    pytest.importorskip('litdata')
    bare = pack([packed.folder.parent/'00.png', packed.folder.parent/'01.png'], tmp_path/'bare', 16)
    assert pd.read_csv(write_stream(bare, tmp_path/'s')/'table.csv').path.tolist() == bare.paths


def test_labels_in_words_are_those_of_the_pack(tmp_path):
    pytest.importorskip('litdata')
    words = dict(Edema=['yes', 'no', '?', None], Mass=['no', 'no', 'yes', 'yes'])
    frame = pd.DataFrame(dict(path=[f'{row}.png' for row in range(4)], patient_id=list('abcd'), **words))
    for name in frame.path: Image.fromarray(np.full((16, 16), 9, np.uint8)).save(tmp_path/name)
    folder = pack(frame, tmp_path/'pack', 16, root=tmp_path, workers=0).folder
    streamed, packed = from_stream(write_stream(folder, tmp_path/'stream')), from_pack(folder)
    assert np.array_equal(streamed.states, packed.states, equal_nan=True)
    assert np.array_equal(streamed.states[:, 0], [1, 0, -1, np.nan], equal_nan=True)
