"""What a search ends with when Tune is done: an error, or the trials that can be chosen from."""

from types import SimpleNamespace

import numpy as np
import pytest

from ray_tl.errors import TrialFailed
from ray_tl.on_ray.confirmation import readable_trials
from ray_tl.on_ray.search import _require_finished
from ray_tl.study.failures import FailureKind
from ray_tl.study.records import TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles
from tests.examples import epoch, store

PREDICTIONS = {name: np.full((4, 2), 0.5, np.float32) for name in ("source_holdout", "target")}


def finished(opened: StudyStore) -> int:
    """A trial at full fidelity, with its evidence."""
    trial = opened.ask()
    opened.add_epoch(trial.number, epoch(trial.config.epochs), 1)
    opened.finish(trial.number, TrialState.COMPLETE)
    TrialFiles(opened.folder, trial.number).save_evidence(PREDICTIONS)
    return trial.number


def failed(opened: StudyStore, kind: FailureKind) -> None:
    opened.finish(opened.ask().number, TrialState.FAILED, f"{kind.words}!", kind)


def require_finished(opened: StudyStore, problem: Exception | None = None, stopped: str | None = None) -> None:
    searcher = SimpleNamespace(stopped=stopped, has_finished=lambda: True)
    _require_finished(opened, SimpleNamespace(problem=problem), searcher)


def test_search_in_which_all_but_the_baseline_failed_is_an_error_that_says_why(tmp_path):
    opened = store(tmp_path)
    finished(opened)
    for kind in (FailureKind.NOT_FINITE, FailureKind.HUNG, FailureKind.HUNG):
        failed(opened, kind)
    with pytest.raises(TrialFailed, match=r"but the baseline failed \(2 x hung, 1 x not finite\).* last one: hung!"):
        require_finished(opened)


def test_search_with_one_other_trial_is_a_search(tmp_path):
    opened = store(tmp_path)
    failed(opened, FailureKind.HUNG)
    finished(opened)
    require_finished(opened)


def test_search_that_stopped_by_itself_says_how_to_go_on(tmp_path):
    with pytest.raises(TrialFailed, match=r"stopped: 5 in a row\. Fix that, .* --resume office"):
        require_finished(store(tmp_path), stopped="5 in a row.")


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_trial_whose_evidence_is_gone_or_damaged_is_left_out_with_a_word(tmp_path, damage):
    opened = store(tmp_path)
    numbers = [finished(opened) for _ in range(3)]
    path = TrialFiles(opened.folder, 1).evidence
    whole = path.read_bytes()
    path.unlink()
    contents = {"cut": whole[: len(whole) // 2], "empty": b""}
    if damage in contents:
        path.write_bytes(contents[damage])
    trials, problems = readable_trials(opened)
    assert [trial.number for trial in trials] == [numbers[0], numbers[2]]
    assert len(problems) == 1
    assert problems[0].startswith("trial 1 takes no part in the choice: its evidence can't be read (")
