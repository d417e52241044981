"Damaged files: each is a picture or an UnreadableImage; and the oracle that says which of them are cut off."
import struct, zlib
import pytest

pytest.importorskip('pydicom')
pytest.importorskip('resource')
import mutations


def test_five_hundred_damaged_files():
    counts, findings, figures = mutations.watch(files=500, seed=1)
    assert not findings, findings
    assert sum(counts.values()) == 500 and counts['damaged'] > 100 and counts['picture'] > 20, counts
    assert figures['slowest_s'] < 20 and figures['most_MB'] < 500


@pytest.fixture(scope='module')
def files(): return mutations.make_seeds()


def test_seeds_are_whole_and_read(files, tmp_path):
    from cxr_workbench.files import read_image
    for name, data in files.items():
        (tmp_path/'x').write_bytes(data)
        several = name in ('frames.png',)
        assert read_image(tmp_path/'x', frame=0 if several else None).max() > 0, name
        assert not mutations.is_cut(data), name


def test_the_oracle_sees_what_is_cut(files):
    for name in ('grey.png', 'interlaced.png', 'explicit.dcm', 'implicit.dcm', 'rle.dcm'):
        data = files[name]
        for share in (.5, .9, .99): assert mutations.is_cut(data[:int(share*len(data))]), (name, share)
    data = bytearray(files['grey.png'])
    data[len(data)//2] ^= 4
    assert mutations.is_cut(bytes(data))
    tag = lambda rows: struct.pack('<HH2sHH', 0x28, 0x10, b'US', 2, rows)
    rows = files['explicit.dcm'].replace(tag(48), tag(49))
    assert rows != files['explicit.dcm']
    assert mutations.is_cut(rows)


def test_the_same_number_makes_the_same_file(files):
    assert mutations.damage(17, 1, files) == mutations.damage(17, 1, files)
    assert len({zlib.crc32(mutations.damage(n, 1, files)[2]) for n in range(200)}) > 190
