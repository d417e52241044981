"A pack as a data set of its own, and columns of texts as one block."
import pickle
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from cxr_workbench.data import from_csv
from cxr_workbench.labels import LabelPolicy
from cxr_workbench.packing import pack
from cxr_workbench.packs import from_pack
from cxr_workbench.text_rows import TextRows

TABLE = '''patient_id,path,Edema,Fracture,note
10000000000000000000000000000000000001,a.png,1.0,,first
10000000000000000000000000000000000001,b.png,-1.0,0.0,"comma, here"
10000000000000000000000000000000000002,,1.0,0.0,no file
10000000000000000000000000000000000002,cut.png,1.0,0.0,damaged
007,c.png,0.0,1.0,last
'''


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in 'abc': Image.fromarray(rng.integers(0, 255, (20, 16), np.uint8)).save(tmp_path/f'{name}.png')
    (tmp_path/'cut.png').write_bytes(b'\x89PNG')
    (tmp_path/'table.csv').write_text(TABLE)
    pack(tmp_path/'table.csv', tmp_path/'pack', 16)
    return tmp_path


def test_a_pack_alone_is_the_table_with_its_files(folder):
    labels, policy = ['Edema', 'Fracture'], LabelPolicy('ignore', 'unknown')
    clean = pd.read_csv(folder/'table.csv', dtype=str).iloc[[0, 1, 4]]
    whole = from_csv(clean, folder, 'path', labels, 'patient_id', policy, packed=folder/'pack')
    for file in folder.glob('*.*'): file.unlink()
    data = from_pack(folder/'pack', labels, policy=policy)
    assert data.fingerprint() == whole.fingerprint() and np.array_equal(data.read_pixels([0, 1, 2]),
                                                                       whole.read_pixels([0, 1, 2]))
    assert data.patient_id.tolist() == [f'{10**37 + 1}', f'{10**37 + 1}', '007']     # 38 digits and a leading zero
    assert data.y.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert data.known.tolist() == [[True, False], [False, True], [True, True]]
    assert data.paths == ['a.png', 'b.png', 'c.png'] and data.meta.note.tolist() == ['first', 'comma, here', 'last']
    assert data.filters.before[0] == 5 and data.filters.after[0] == 3


def test_usual_names_are_found(folder):
    data = from_pack(folder/'pack')
    assert data.label_names == ['Edema', 'Fracture'] and len(np.unique(data.patient_id)) == 2


def test_another_name_of_the_column(folder):
    frame = pd.read_csv(folder/'table.csv', dtype=str).rename(columns={'path': 'where it is'})
    pack(frame, folder/'other', 16, path_column='where it is', root=folder)
    assert from_pack(folder/'other', ['Edema']).paths == ['a.png', 'b.png', 'c.png']


def test_a_pack_without_a_table_says_what_to_do(folder):
    pack([folder/'a.png'], folder/'bare', 16)
    with pytest.raises(ValueError, match='with packed=...'): from_pack(folder/'bare')


# ---- texts ----

texts = st.lists(st.one_of(st.none(), st.text(max_size=6), st.sampled_from(['caf\udce9.png', 'a\x00b', 'Ä/ü.dcm'])),
                 max_size=20)


@given(texts, st.data())
@settings(max_examples=60)
def test_rows_of_texts_are_a_list_of_texts(values, draw):
    rows, n = TextRows(values), len(values)
    assert rows == values and list(rows) == values and len(rows) == n and rows.tolist() == values
    assert [rows[i] for i in range(-n, n)] == values + values
    part = draw.draw(st.slices(n))
    assert rows[part] == values[part]
    picked = draw.draw(st.lists(st.integers(-n, n - 1), max_size=9)) if n else []
    assert rows[picked] == [values[i] for i in picked] == rows[np.array(picked, int)]
    mask = np.array(draw.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    assert rows[mask] == [value for value, keep in zip(values, mask) if keep]
    assert pickle.loads(pickle.dumps(rows)) == values and rows + ['z'] == values + ['z']
    for value in values: assert value in rows and values[rows.index(value)] == value


def test_rows_of_texts_are_three_objects_however_many_they_are():
    few, many = (TextRows(f'files/{i:06d}.jpg' for i in range(n)) for n in (10, 50_000))
    held = [[part for part in vars(rows).values() if part is not None] for rows in (few, many)]
    assert len(held[0]) == len(held[1]) == 2 and all(isinstance(part, np.ndarray) for part in held[1])
    assert many.nbytes == 50_000*16 + 50_001*8 and len(pickle.dumps(many)) < many.nbytes + 1000
    assert many[10:].block.base is None                          # a part does not keep the whole


def test_what_is_no_text_is_refused():
    for wrong in ([3], [b'a'], 'abc'):
        with pytest.raises(TypeError): TextRows(wrong)
    for row in (2, -3):
        with pytest.raises(IndexError): TextRows(['a', 'b'])[row]


def test_texts_go_into_tables():
    rows = TextRows(['a', None, 'c'])
    assert pd.DataFrame({'path': list(rows)}).path.isna().tolist() == [False, True, False]
    assert np.asarray(rows)[2] == 'c' and np.array(TextRows(['a', 'bc'])).tolist() == ['a', 'bc']
    assert pd.Series(rows).tolist()[0] == 'a' and rows != ['a'] and rows != 3


@pytest.mark.skipif(not hasattr(__import__('os'), 'fork'), reason='forked processes')
def test_a_forked_process_copies_nothing_to_read_all_texts():
    "Pages that a child writes while it reads 200,000 texts: as good as none, where a list costs its size."
    code = '''
import os, sys
from cxr_workbench.text_rows import TextRows
made = (f'files/p{i:08d}/s{i*7:08d}/{i*31:08x}-{i*77:08x}.jpg' for i in range(200_000))
rows = list(made) if sys.argv[1] == 'list' else TextRows(made)
def written():
    lines = open('/proc/self/smaps_rollup').read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith('Private_Dirty'))/1024
if os.fork() == 0:
    before = written()
    total = sum(len(rows[i]) for i in range(0, 200_000))
    print(written() - before, flush=True)
    os._exit(0)
os.wait()
'''
    import os, subprocess, sys
    if not os.path.exists('/proc/self/smaps_rollup'): pytest.skip('no /proc/self/smaps_rollup')
    grown = {}
    for kind in ('list', 'block'):
        done = subprocess.run([sys.executable, '-c', code, kind], capture_output=True, text=True, timeout=120)
        grown[kind] = float(done.stdout)
    assert grown['block'] < 2 and grown['list'] > 10, grown


def test_the_line_is_that_of_the_table_in_the_pack(folder):
    (folder/'pack'/'table.csv').write_text(TABLE.replace('c.png,0.0', 'c.png,7'))
    with pytest.raises(ValueError, match=r"pack/table\.csv: line 6, column 'Edema': 7"): from_pack(folder/'pack')
