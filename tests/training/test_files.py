"""What a trial leaves on disk is whole or not there."""

import pickle

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.testing import assert_close

from ray_tl.files import write_atomically
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


def test_probabilities_come_back_nearly_as_they_were_and_nothing_else_with_them(tmp_path):
    logits = np.random.default_rng(0).normal(size=(2000, 7)) * np.logspace(-2, 2, 2000)[:, None]
    arrays = {"target": softmax(logits, axis=1).astype(np.float32), "source_holdout": np.float32([[1, 0], [0, 1]])}
    TrialFiles(tmp_path, 4).save_evidence(arrays)
    loaded = TrialFiles(tmp_path, 4).load_evidence()
    assert set(loaded) == set(arrays)
    np.testing.assert_allclose(loaded["target"], arrays["target"], rtol=0, atol=5e-4)
    np.testing.assert_array_equal(loaded["source_holdout"], arrays["source_holdout"])
    assert TrialFiles(tmp_path, 4).evidence.stat().st_size < 2000 * 7 * 2 + 2000


def test_which_of_two_classes_is_likelier_is_never_lost(tmp_path):
    nearly = np.float32([[0.5 - 4e-4, 0.5 + 4e-4], [0.5 + 4e-4, 0.5 - 4e-4]])
    TrialFiles(tmp_path, 0).save_evidence({"target": nearly})
    assert TrialFiles(tmp_path, 0).load_evidence()["target"].argmax(1).tolist() == [1, 0]


def test_probabilities_of_an_older_study_are_read_as_they_are(tmp_path):
    old = np.float32([[0.25, 0.75], [1, 0]])
    write_atomically(TrialFiles(tmp_path, 0).evidence, lambda file: np.savez(file, target=old))
    assert np.array_equal(TrialFiles(tmp_path, 0).load_evidence()["target"], old)


def test_without_a_file_there_is_no_checkpoint(tmp_path):
    assert TrialFiles(tmp_path, 0).load_checkpoint() is None


def test_a_checkpoint_that_is_removed_is_not_there_any_more(tmp_path):
    files = TrialFiles(tmp_path, 0)
    files.remove_checkpoint()
    files.save_checkpoint({"epoch": 1})
    files.remove_checkpoint()
    assert files.load_checkpoint() is None


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
