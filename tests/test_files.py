import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_tl.data.samples import write_sample_folders
from ray_tl.errors import StorageFailed, storage_failure
from ray_tl.files import naming, removed_on_failure, require_writable, write_atomically

LARGE = np.random.default_rng(0).random(50_000)
WRITERS = {
    "bytes": lambda file: file.write(LARGE.tobytes()),
    "numpy": lambda file: np.savez(file, large=LARGE),
    "torch": lambda file: torch.save(torch.from_numpy(LARGE), file),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_full_disk_names_the_file_and_leaves_the_old_one(full_disk, writer):
    path = full_disk / "file"
    write_atomically(path, lambda file: file.write(b"old"))
    with pytest.raises(OSError, match=rf"No space left on device: '{re.escape(str(path))}'"):
        write_atomically(path, WRITERS[writer])
    assert path.read_bytes() == b"old"
    assert list(full_disk.iterdir()) == [path]


def test_file_may_be_read_by_whom_the_mask_lets(tmp_path):
    before = os.umask(0o022)
    write_atomically(tmp_path / "file", lambda file: file.write(b"a"))
    os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_error_that_is_not_of_the_system_stays_as_it_is():
    with pytest.raises(ZeroDivisionError), naming(Path("a")):
        1 / 0  # noqa: B018


def test_what_was_made_is_removed_when_the_rest_fails(tmp_path):
    folder, file, other = tmp_path / "folder", tmp_path / "file", tmp_path / "other"
    folder.mkdir()
    file.touch()
    other.touch()
    with pytest.raises(KeyboardInterrupt), removed_on_failure(folder, file, tmp_path / "never made"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [other]


def test_sample_folders_are_whole_or_not_there(full_disk):
    with pytest.raises(OSError, match=r"No space left on device: '.*/disk/"):
        write_sample_folders(full_disk, 30)
    assert list(full_disk.iterdir()) == []


def test_folder_that_can_be_made_is_not_made(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_of_a_folder_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageFailed, match=r"file/a can't be written: Not a directory; a file stands where a folder"):
        require_writable(tmp_path / "file" / "a")


def test_folder_where_nothing_can_be_made_is_said():
    with pytest.raises(StorageFailed, match=r"/proc/x/a can't be written: No such file or directory; check the path"):
        require_writable(Path("/proc/x/a"))


def test_folder_that_may_only_be_read_is_said(tmp_path, only_readable):
    only_readable(tmp_path)
    with pytest.raises(StorageFailed, match=r"a can't be written: Operation not permitted; change its permissions"):
        require_writable(tmp_path / "a")


def test_disk_without_room_is_said(full_disk):
    with pytest.raises(StorageFailed, match=r"can't be written: No space left on device; the disk is full: free some"):
        require_writable(full_disk / "a")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied; change its permissions, or choose"),
        (OSError(18, "Invalid cross-device link", "/a", None, "/b"), "/a or /b: Invalid cross-device link."),
        (OSError("no number"), "no number."),
    ],
)
def test_error_of_the_system_is_one_line_with_the_path_and_the_remedy(error, said):
    assert str(storage_failure(error)).startswith(said)
