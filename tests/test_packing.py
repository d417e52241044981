"Packing a table of images: order, kills, full disks, names, damaged packs, and a pack as a source of images."
import collections, json, os, pickle, signal, subprocess, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_files import picture
from cxr_workbench import packing
from cxr_workbench.packing import PackedImages, pack
from cxr_workbench.reading import Reading, fit_image, read_image

QUIET = {**os.environ, 'TQDM_DISABLE': '1', 'PYTHONDONTWRITEBYTECODE': '1'}
BAD = [f'bad{i}.png' for i in range(10)]


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    "A CSV file of 330 small images, some of them tall, with ten that cannot be read and one blank, beside its images."
    folder = tmp_path_factory.mktemp('images')
    names = [f'{i:03d}.png' for i in range(319)]
    for i, name in enumerate(names):
        image = picture(40 + i%3*8, 40, seed=i)
        Image.fromarray(image).save(folder/name, compress_level=1)
    for i, name in enumerate(BAD):
        (folder/name).write_bytes(b'\x89PNG' + bytes(i*10))
        names.insert(31*i + 5, name)
    names.insert(200, None)
    pd.DataFrame({'path': names, 'Edema': range(330)}).to_csv(folder/'table.csv', index=False)
    return folder/'table.csv'


def contents(folder): return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def to_bytes(x): return np.rint(x*255).astype(np.uint8)


# ---- what a pack holds ----

def test_a_plan_says_what_packing_takes_and_writes_nothing(table, tmp_path):
    plan = packing.plan_pack(table, tmp_path/'p', 16, shard=100, workers=2, sample=330)
    assert not (tmp_path/'p').exists()
    assert (plan['rows'], plan['shards'], plan['shards_there'], plan['workers']) == (330, 4, 0, 2)
    assert plan['unreadable_share'] == 11/330 and plan['pack_MB'] == 330*16*16/1e6
    assert plan['hours'] == pytest.approx(330*plan['file_ms']/1e3/2/3600) and plan['file_ms'] > 0
    sides = pack(table, tmp_path/'p', 16, shard=100, workers=0).index
    assert plan['memory_MB'] == pytest.approx((2*100*256 + 4*2*(sides.height*sides.width).max())/1e6)
    sample = packing.plan_pack(table, tmp_path/'q', 16, shard=100, workers=1, sample=20)
    assert sample['pack_MB'] == plan['pack_MB'] and sample['hours'] > 0
    with pytest.raises(ValueError, match='no column'): packing.plan_pack(table, tmp_path/'q', 16, path_column='file')


def test_a_plan_counts_the_shards_that_are_there(table, tmp_path):
    names, files, _ = packing.resolve_paths(table)
    own = packing.claim_folder(tmp_path/'p', packing.make_plan(names, Reading(16), 100))
    done = [packing.pack_file(file, Reading(16)) for file in files[:100]]
    packing.write_shard(tmp_path/'p', 0, range(100), names[:100], done)
    plan = packing.plan_pack(table, tmp_path/'p', 16, shard=100, workers=1, sample=10)
    assert plan['shards_there'] == 1 and plan['hours'] == pytest.approx(230*plan['file_ms']/3.6e6)
    assert not own['complete']


def test_the_command_prints_a_plan(table, tmp_path):
    from test_cli import shell
    printed = shell('pack', table, tmp_path/'p', '--size', 16, '--plan')
    assert 'rows: 330' in printed and 'shards: 1' in printed and 'hours: ' in printed and not (tmp_path/'p').exists()


def test_ten_bad_files_among_hundreds(table, tmp_path):
    packed = pack(table, tmp_path/'p', 16, shard=100, workers=0)
    frame = pd.read_csv(table)
    assert len(packed) == 319 and len(packed.failed) == 11 and packed.size == 16
    assert set(packed.failed.path) == {*BAD, ''} and packed.failed.reason.str.len().min() > 10
    assert sorted([*packed.rows, *packed.failed.row]) == list(range(330))
    assert frame.path[packed.rows].tolist() == packed.paths
    shards = [f'shard_{k:05d}.npy' for k in range(4)]
    beside = {'pack.json', 'index.csv', 'failed.csv', 'table.csv', 'checksums.sha256'}
    assert set(contents(tmp_path/'p')) == {*beside, *shards}
    for i in (0, 150, 318):
        image = np.asarray(Image.open(table.parent/packed.paths[i]))
        assert np.array_equal(packed[i], to_bytes(fit_image(image/np.float32(255), 16)))
        assert tuple(packed.index.loc[i, ['height', 'width']]) == image.shape


def test_every_way_in_gives_the_same_bytes(table, tmp_path):
    frame = pd.read_csv(table).set_index('Edema')
    frame.index = frame.index + 1000                        # row numbers are positions, not labels of the index
    of_csv = pack(table, tmp_path/'csv', 16, workers=0)
    of_frame = pack(frame, tmp_path/'frame', 16, root=table.parent, workers=2)
    of_csv_files, of_frame_files = (contents(packed.folder) for packed in (of_csv, of_frame))
    for held in (of_csv_files, of_frame_files): del held['table.csv']       # the frame's paths were read already
    assert of_csv_files == of_frame_files
    paths = [str(table.parent/p) for p in frame.path if isinstance(p, str)]
    of_list = pack(paths, tmp_path/'list', 16, workers=0)
    assert np.array_equal(of_list[:], of_csv[:]) and of_list.fingerprint != of_csv.fingerprint


def test_indexing(table, tmp_path):
    torch = pytest.importorskip('torch')
    packed = pack(table, tmp_path/'p', 16, shard=50, workers=0)
    whole = packed[:]
    assert whole.shape == (319, 16, 16) and whole.dtype == np.uint8
    rows = np.random.default_rng(0).permutation(319)
    assert np.array_equal(packed[rows], whole[rows])
    assert np.array_equal(packed[rows[:4].tolist()], whole[rows[:4]])
    assert np.array_equal(packed[torch.from_numpy(rows)], whole[rows])
    assert np.array_equal(packed[rows > 300], whole[rows > 300])
    assert np.array_equal(packed[-1], whole[-1])
    assert packed[[]].shape == (0, 16, 16) and packed[5].shape == (16, 16)
    again = pickle.loads(pickle.dumps(packed))
    assert len(pickle.dumps(packed)) < whole.nbytes and np.array_equal(again[rows], whole[rows])
    for wrong in (319, [0, 319], -320):
        with pytest.raises(IndexError): packed[wrong]


def test_what_a_pack_gives_is_a_copy(table, tmp_path):
    packed = pack(table, tmp_path/'p', 16, shard=50, workers=0)
    whole = packed[:]
    block, one = packed[0:3], packed[0]
    block[:], one[:] = 0, 0
    assert np.array_equal(packed[0:3], whole[0:3])


class Rows:
    "A data set whose items are single images of a pack."
    def __init__(self, packed): self.packed = packed
    def __len__(self): return len(self.packed)
    def __getitem__(self, i): return self.packed[i]


def test_workers_of_a_loader(table, tmp_path):
    data = pytest.importorskip('torch.utils.data')
    packed = pack(table, tmp_path/'p', 16, shard=50, workers=0)
    batches = data.DataLoader(Rows(packed), batch_size=64, num_workers=2)
    assert np.array_equal(np.concatenate([batch.numpy() for batch in batches]), packed[:])


def test_reading_arguments_reach_the_files(tmp_path):
    Image.fromarray(picture().astype(np.uint16)*16).save(tmp_path/'x.png')
    packed = pack([tmp_path/'x.png'], tmp_path/'p', 32, bits=12, invert=True)
    assert packed.reading == Reading(32, bits=12, invert=True)
    right = fit_image(read_image(tmp_path/'x.png', bits=12, invert=True), 32)
    assert np.abs(packed[0]/255. - right).max() < .5/255 + 1e-6


@pytest.mark.parametrize('name', ['NA', 'Röntgen, "1".png', os.fsdecode(b'caf\xe9.png')])
def test_names_survive(tmp_path, name):
    try: Image.fromarray(picture()).save(tmp_path/name, 'PNG')
    except (OSError, UnicodeError): pytest.skip('this file system does not take the name')
    assert pack([name, 'absent.png'], tmp_path/'p', 16, root=tmp_path).paths == [name]


def test_real_radiographs_pack(cxr_data, tmp_path):
    frame = pd.read_csv(cxr_data/'nih14'/'subset.csv')[:60]
    packed = pack(frame, tmp_path/'p', 64, path_column='file_256', root=cxr_data/'nih14', workers=0)
    there = frame.file_256.notna().to_numpy()
    assert np.array_equal(packed.rows, np.flatnonzero(there)) and len(packed.failed) == (~there).sum()
    reference = np.load(cxr_data/'nih14'/'images_64.npz')['images'][frame.npz_row[there]]
    # the same radiographs, made small by another filter and from JPEG
    assert np.abs(packed[:].astype(int) - reference).mean() < 4


# ---- kills and full disks ----

SCRIPT = '''
import functools, sys, time
import cxr_workbench.packing as packing
pack_file = packing.pack_file
@functools.wraps(pack_file)
def slow(*a, **k):
    time.sleep({sleep})
    return pack_file(*a, **k)
packing.pack_file = slow
if __name__ == '__main__':
    {before}
    packing.pack({table!r}, sys.argv[1], 16, shard=20, workers={workers})
'''


@pytest.fixture
def write_script(table, tmp_path):
    "Writes the script of a user that packs the table into its first argument."
    def write(**parts):
        (tmp_path/'run.py').write_text(SCRIPT.format(table=str(table), **parts))
        return tmp_path/'run.py'
    return write


def pack_until_killed(script, out, shards):
    "Run a script, kill it when so many shards are there; the process numbers of its workers."
    process = subprocess.Popen([sys.executable, script, out], env=QUIET, start_new_session=True)
    deadline = time.time() + 90
    while len(list(out.glob('shard_*.csv'))) < shards and process.poll() is None and time.time() < deadline:
        time.sleep(.002)
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children')
    children = children.read_text().split() if children.exists() else []
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return children


def is_alive(pid):
    "Whether a process runs; one that has ended and waits for its parent does not."
    try: return 'Z' not in Path(f'/proc/{pid}/stat').read_text().split(')')[1][:3]
    except (FileNotFoundError, ProcessLookupError): return False


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_and_resumed(table, write_script, tmp_path, workers):
    out = tmp_path/'killed'
    children = pack_until_killed(write_script(before='pass', sleep=.02, workers=workers), out, shards=3)
    assert len(children) >= workers
    with pytest.raises(ValueError, match='is incomplete'): PackedImages(out)
    done = {p.name: p.stat().st_mtime_ns for p in out.glob('shard_*.npy')}
    for _ in range(100):
        if not any(map(is_alive, children)): break
        time.sleep(.1)
    else: pytest.fail('workers outlived the process that started them')
    resumed = pack(table, out, 16, shard=20, workers=0)
    assert contents(out) == contents(pack(table, tmp_path/'whole', 16, shard=20, workers=0).folder)
    kept = [name for name, at in done.items() if (out/name).stat().st_mtime_ns == at]
    assert 3 <= len(kept) < 17 and len(resumed) == 319      # whole shards were not made again


def test_full_disk(table, write_script, tmp_path):
    pytest.importorskip('resource')
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4500, 4500))'
    script = write_script(before=limit, sleep=0, workers=0)
    result = subprocess.run([sys.executable, script, tmp_path/'p'], env=QUIET, capture_output=True, text=True)
    assert result.returncode == 1
    assert 'shard_00000.npy could not be written' in result.stderr and 'make room' in result.stderr
    assert set(contents(tmp_path/'p')) <= {'pack.json', 'table.csv'}     # no half file
    pack(table, tmp_path/'p', 16, shard=20, workers=0)
    assert contents(tmp_path/'p') == contents(pack(table, tmp_path/'whole', 16, shard=20, workers=0).folder)


def test_too_little_room_is_seen_before_the_first_file(table, tmp_path, monkeypatch):
    usage = collections.namedtuple('usage', 'total used free')(10**6, 10**6, 1000)
    monkeypatch.setattr(packing.shutil, 'disk_usage', lambda path: usage)
    monkeypatch.setattr(packing, 'pack_file', lambda *a, **k: pytest.fail('a file was read'))
    with pytest.raises(OSError, match='make room'): pack(table, tmp_path/'p', 16, workers=0)


def test_a_dying_worker_is_explained(tmp_path):
    with pytest.raises(RuntimeError, match='fewer workers'):
        with packing.parallel_map(os._exit, [1]*4, 1) as results: list(results)


# ---- what is refused ----

def test_a_folder_belongs_to_one_table(table, tmp_path):
    out = pack(table, tmp_path/'p', 16, workers=0).folder
    before = contents(out)
    for options, message in ((dict(size=24), 'size 16 against 24'),
                             (dict(size=16, fit='crop'), "fit 'pad' against 'crop'"),
                             (dict(size=16, bits=12), 'bits None against 12')):
        with pytest.raises(ValueError, match=message): pack(table, out, workers=0, **options)
    with pytest.raises(ValueError, match='another table'):
        pack(pd.read_csv(table)[:300], out, 16, root=table.parent, workers=0)
    assert contents(out) == before


def test_a_folder_with_other_files_is_left_alone(table, tmp_path):
    (tmp_path/'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='thesis.txt'): pack(table, tmp_path, 16)
    assert contents(tmp_path) == {'thesis.txt': b'years of work'}


def test_bad_tables(table, tmp_path):
    frame, folder, out = pd.read_csv(table), table.parent, tmp_path/'p'
    renamed = frame.rename(columns={'path': 'file'})
    with pytest.raises(ValueError, match='no column .path.*Edema'): pack(renamed, out, 16)
    with pytest.raises(ValueError, match='appear twice.*rows 1, 331 .counted from 1'):
        pack(pd.concat([frame, frame[:1]]), out, 16, root=folder)
    with pytest.raises(ValueError, match='appear twice'): pack(['000.png', './000.png'], out, 16, root=folder)
    with pytest.raises(ValueError, match='check root='): pack(frame, out, 16, root=tmp_path)
    with pytest.raises(ValueError, match='names no file'): pack([], out, 16)
    with pytest.raises(ValueError, match='row 1 holds 3'): pack(['000.png', 3], out, 16)
    with pytest.raises(TypeError, match='depth'): pack(frame, out, 16, depth=12)
    with pytest.raises(ValueError, match='none of 10 files could be read'): pack([folder/name for name in BAD], out, 16)
    assert not out.exists() or not list(out.iterdir())


SHIFTED = 'path,Edema\na.png,1,5\nb.png,0,6\n'


@pytest.mark.parametrize('text, words', [
    (SHIFTED, 'line 2 has 3 fields'), ('path,path\na.png,b.png\n', 'more than once')])
def test_tables_that_pandas_would_shift(tmp_path, text, words):
    (tmp_path/'t.csv').write_text(text)
    with pytest.raises(ValueError, match=words): pack(tmp_path/'t.csv', tmp_path/'p', 16)


def test_a_comma_at_the_end_of_each_row(tmp_path):
    Image.fromarray(picture()).save(tmp_path/'a.png')
    (tmp_path/'t.csv').write_text('path,Edema\na.png,1,\n')
    try: assert pack(tmp_path/'t.csv', tmp_path/'p', 16).paths == ['a.png']
    except ValueError as error: assert 'has no name' in str(error)
    (tmp_path/'u.csv').write_text('path,Edema,\na.png,1,\n')
    assert pack(tmp_path/'u.csv', tmp_path/'q', 16).paths == ['a.png']


def test_damaged_packs_are_refused(table, tmp_path):
    out = pack(table, tmp_path/'p', 16, workers=0).folder
    with pytest.raises(FileNotFoundError, match='no pack'): PackedImages(tmp_path)
    with open(out/'shard_00000.npy', 'r+b') as file: file.truncate(5000)
    with pytest.raises(ValueError, match='cut off'): PackedImages(out)


def flip(file, at=-5):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def test_checksums_are_those_of_sha256sum(table, tmp_path):
    import hashlib
    out = pack(table, tmp_path/'p', 16, shard=100, workers=0).folder
    lines = (out/'checksums.sha256').read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        digest, name = line.split('  ')
        assert hashlib.sha256((out/name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize('change, words', [
    (lambda file: flip(file), 'checksum differs'),
    (lambda file: file.unlink(), 'is missing'),
    (lambda file: file.write_bytes(file.read_bytes()[:-1]), 'is cut off'),
    (lambda file: file.write_bytes(file.read_bytes() + b'x'), 'longer'),
    (lambda file: file.write_bytes(b'<html>'), 'no header'),
    (lambda file: np.save(file, np.zeros((9, 16, 16), np.uint8)), 'shape')])
def test_a_damaged_shard_is_named_and_made_again(table, tmp_path, change, words):
    out = pack(table, tmp_path/'p', 16, shard=100, workers=0).folder
    before = contents(out)
    assert PackedImages(out).verify()
    at = {name: (out/name).stat().st_mtime_ns for name in before}
    change(out/'shard_00001.npy')
    with pytest.raises(ValueError, match=f'shard_00001.npy .*{words}.*verify'): PackedImages(out).verify()
    with pytest.warns(UserWarning, match='shard_00001.npy .* made again'):
        pack(table, out, 16, shard=100, workers=0, verify=True)
    assert contents(out) == before
    kept = [name for name in before if name.endswith('.npy') and (out/name).stat().st_mtime_ns == at[name]]
    assert len(kept) == 3
    assert PackedImages(out).verify()


def test_what_the_quick_check_sees_is_refused_at_opening(table, tmp_path):
    out = pack(table, tmp_path/'p', 16, shard=100, workers=0).folder
    flip(out/'shard_00002.npy')
    assert len(PackedImages(out)) == 319                        # a single bit needs the thorough check
    np.save(out/'shard_00002.npy', np.zeros((3, 16, 16), np.uint8))
    np.save(out/'shard_00000.npy', np.zeros((3, 16, 16), np.float32))
    with pytest.raises(ValueError, match='shard_00000.npy holds float32.*1 more'): PackedImages(out)
    with pytest.warns(UserWarning, match='made again'): pack(table, out, 16, shard=100, workers=0)   # and repaired
    assert PackedImages(out).verify()


def test_a_damaged_shard_of_an_unfinished_pack_is_made_again(table, write_script, tmp_path):
    out = tmp_path/'killed'
    pack_until_killed(write_script(before='pass', sleep=.02, workers=0), out, shards=3)
    flip(out/'shard_00001.npy')
    with pytest.warns(UserWarning, match='shard_00001.npy is not what was written'):
        pack(table, out, 16, shard=20, workers=0)
    assert contents(out) == contents(pack(table, tmp_path/'whole', 16, shard=20, workers=0).folder)


def test_a_repair_that_is_killed_goes_on(table, tmp_path, monkeypatch):
    out = pack(table, tmp_path/'p', 16, shard=100, workers=0).folder
    before = contents(out)
    flip(out/'shard_00001.npy')
    monkeypatch.setattr(packing, 'pack_file', lambda *a, **k: 1/0)
    with pytest.warns(UserWarning), pytest.raises(ZeroDivisionError):
        pack(table, out, 16, shard=100, workers=0, verify=True)
    monkeypatch.undo()
    with pytest.raises(ValueError, match='incomplete, 3 of 4'): PackedImages(out)
    pack(table, out, 16, shard=100, workers=0)
    assert contents(out) == before


def test_a_pack_without_checksums_opens_and_says_so(table, tmp_path):
    out = pack(table, tmp_path/'p', 16, shard=100, workers=0).folder
    (out/'checksums.sha256').unlink()
    (out/'table.csv').unlink()
    plan = json.loads((out/'pack.json').read_text())
    del plan['path_column']
    (out/'pack.json').write_text(json.dumps(plan))
    old = PackedImages(out)
    assert len(old) == 319 and old.verify() is False and old.table_file is None
    assert len(pack(table, out, 16, shard=100, workers=0)) == 319
    (out/'shard_00003.npy').unlink()
    with pytest.warns(UserWarning, match='is missing'): pack(table, out, 16, shard=100, workers=0)
    assert PackedImages(out).verify() is True                   # all shards have a checksum now


def test_the_table_stays_beside_the_images(tmp_path):
    Image.fromarray(picture()).save(tmp_path/'a.png')
    text = 'patient,path,Edema,note\n00000000000000000000000000000000000012,a.png,1.0,"a, b"\n7,gone.png,-1.0,\n'
    (tmp_path/'t.csv').write_text(text)
    packed = pack(tmp_path/'t.csv', tmp_path/'p', 16)
    assert packed.table_file.read_text() == text                # as written: ids are text, blanks stay blank
    (tmp_path/'t.csv').write_text(text.replace('1.0,"', '0.0,"'))
    assert 'a.png,0.0' in pack(tmp_path/'t.csv', tmp_path/'p', 16).table_file.read_text()    # corrected labels
    some = pack(tmp_path/'t.csv', tmp_path/'some', 16, keep=['Edema'])
    assert some.table_file.read_text().splitlines()[0] == 'path,Edema'
    assert pack(tmp_path/'t.csv', tmp_path/'none', 16, keep=[]).table_file is None
    assert pack([tmp_path/'a.png'], tmp_path/'list', 16).table_file is None
    with pytest.raises(ValueError, match='not: .*Age'): pack(tmp_path/'t.csv', tmp_path/'q', 16, keep=['Age'])


def test_packs_of_an_earlier_and_of_a_later_version(tmp_path):
    Image.fromarray(picture().astype(np.uint16)*16).save(tmp_path/'x.png')
    out = pack([tmp_path/'x.png'], tmp_path/'p', 32, bits=12).folder
    plan = json.loads((out/'pack.json').read_text())
    (out/'pack.json').write_text(json.dumps({**plan, 'reading': {'bits': 12}}))       # only what was given
    assert PackedImages(out).reading == Reading(32, bits=12)
    assert np.array_equal(pack([tmp_path/'x.png'], out, 32, bits=12)[:], PackedImages(out)[:])
    with pytest.raises(ValueError, match='bits 12 against None'): pack([tmp_path/'x.png'], out, 32)
    for change in ({'format': 2}, {'reading': {'gamma': 2}}):
        (out/'pack.json').write_text(json.dumps({**plan, **change}))
        with pytest.raises(ValueError, match='newer version'): PackedImages(out)
