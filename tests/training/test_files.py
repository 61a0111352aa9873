"""What a trial leaves on disk is whole or not there."""

import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.files import write_atomically
from ray_tl.neighbours import LabelledSpace, nearest_neighbours
from ray_tl.training.files import TrialFiles


class Unpicklable:
    """Makes `torch.save` fail after it has begun to write."""

    def __reduce__(self):
        raise OSError("disk full")


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {"task": {"weight": torch.arange(6.0).view(2, 3)}, "report": {"epoch": 3, "scores": {"im": 0.5}}}
    TrialFiles(tmp_path, 4).save_checkpoint(state)
    assert_close(TrialFiles(tmp_path, 4).load_checkpoint(), state, rtol=0, atol=0)
    assert (tmp_path / "checkpoints" / "0004.pt").is_file()


def test_evidence_comes_back_as_it_was_and_nothing_else_with_it(tmp_path):
    arrays = {"target": np.float32([[0.25, 0.75]]), "source_holdout": np.float32([[1, 0], [0, 1]])}
    TrialFiles(tmp_path, 4).save_evidence(arrays)
    loaded = TrialFiles(tmp_path, 4).load_evidence()
    assert set(loaded) == set(arrays)
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())


def test_a_space_comes_back_as_it_was_and_without_a_file_there_is_none(tmp_path):
    files = TrialFiles(tmp_path, 4)
    assert files.load_space() is None
    space = LabelledSpace(nearest_neighbours(np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) * 3), 0.25)
    files.save_space(space)
    again = files.load_space()
    assert again.trust == 0.25
    assert np.array_equal(again.neighbours.rows, space.neighbours.rows)
    assert np.array_equal(again.neighbours.nearest, space.neighbours.nearest)
    assert [path.name for path in files.space.parent.iterdir()] == ["0004-space.npz"]


def test_without_a_file_there_is_no_checkpoint(tmp_path):
    assert TrialFiles(tmp_path, 0).load_checkpoint() is None


def test_a_crash_in_mid_checkpoint_leaves_the_old_one_whole(tmp_path):
    files = TrialFiles(tmp_path, 0)
    files.save_checkpoint({"epoch": 1})
    with pytest.raises(OSError, match="disk full"):
        files.save_checkpoint({"weight": torch.zeros(1000), "broken": Unpicklable()})
    assert files.load_checkpoint() == {"epoch": 1}
    assert [path.name for path in files.checkpoint.parent.iterdir()] == ["0000.pt"]


@pytest.mark.parametrize("crash", [OSError, KeyboardInterrupt, SystemExit])
def test_whatever_breaks_in_mid_write_leaves_no_half_file(tmp_path, crash):
    path = tmp_path / "folder" / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def write_half(file):
        file.write(b"ne")
        raise crash

    with pytest.raises(crash):
        write_atomically(path, write_half)
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_runs_no_code_when_it_is_loaded(tmp_path):
    files, trap = TrialFiles(tmp_path, 0), tmp_path / "trapped"
    files.save_checkpoint({"report": Trap(str(trap))})
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        files.load_checkpoint()
    assert not trap.exists()


def test_evidence_runs_no_code_when_it_is_loaded(tmp_path):
    files, trap = TrialFiles(tmp_path, 0), tmp_path / "trapped"
    write_atomically(files.evidence, lambda file: np.savez(file, target=np.array([Trap(str(trap))], dtype=object)))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        files.load_evidence()
    assert not trap.exists()


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")
