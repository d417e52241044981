"Files that appear whole or not at all, and what an error leaves behind."
import pytest
from cxr_workbench.writing import atomic_path, write_atomic


def names(folder): return sorted(path.name for path in folder.iterdir())


def test_parts_are_joined(tmp_path):
    write_atomic(tmp_path/'x', b'one ', memoryview(b'two'))
    assert (tmp_path/'x').read_bytes() == b'one two' and names(tmp_path) == ['x']


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    write_atomic(tmp_path/'x', b'old')
    with atomic_path(tmp_path/'x') as part:
        part.write_bytes(b'new')
        assert (tmp_path/'x').read_bytes() == b'old'
    assert (tmp_path/'x').read_bytes() == b'new' and names(tmp_path) == ['x']


@pytest.mark.parametrize('error', [OSError(28, 'No space left'), RuntimeError('PytorchStreamWriter failed')])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, error):
    write_atomic(tmp_path/'x', b'old')
    with pytest.raises(OSError, match='could not be written .*untouched: make room') as caught:
        with atomic_path(tmp_path/'x') as part:
            part.write_bytes(b'half')
            raise error
    assert caught.value.errno in (28, 5) and caught.value.__cause__ is error
    assert (tmp_path/'x').read_bytes() == b'old' and names(tmp_path) == ['x']


def test_where_there_was_no_file_there_is_none_afterwards(tmp_path):
    with pytest.raises(OSError, match='nothing was there before'):
        with atomic_path(tmp_path/'x') as part:
            part.write_bytes(b'half')
            raise OSError('broken')
    assert names(tmp_path) == []


@pytest.mark.parametrize('error', [KeyboardInterrupt(), KeyError('label')])
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught:
        with atomic_path(tmp_path/'x') as part:
            part.write_bytes(b'half')
            raise error
    assert caught.value is error and names(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path/'absent'/'x'
    with pytest.raises(FileNotFoundError, match='there is no folder .*absent'): write_atomic(path, b'1')
