"""Train one trial, in plain PyTorch, on one rank or many."""

from dataclasses import dataclass

import torch.distributed as dist

from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.collectives import rank, world_size
from ray_tl.config import TrialConfig
from ray_tl.data.augmentation import views_of
from ray_tl.errors import RayTLError
from ray_tl.selection import SelectionRule
from ray_tl.training.beside import Beside, Left, reports_of
from ray_tl.training.closed_form import ClosedFormRun
from ray_tl.training.data import TrialData
from ray_tl.training.examination import gather_evidence, scores_of
from ray_tl.training.files import State, TrialFiles
from ray_tl.training.network import load_model
from ray_tl.training.report import Report
from ray_tl.training.run import TrialRun

__all__ = ["Evaluation", "TrialRun", "evaluate_checkpoint", "train_run", "train_trial"]


def train_trial(config: TrialConfig, data: TrialData, report: Report, files: TrialFiles, rule: SelectionRule) -> bool:
    """Train until full fidelity or until told to stop; go on from the checkpoint if there is one.

    A closed-form method trains nothing: its only epoch is the last. A trial that stops early ends with the report of
    its last epoch, which is that of its best one: whoever counts epochs sees it at full fidelity.

    On W ranks of an initialised process group, each rank calls this with the same arguments; rank 0 alone reports
    and writes. It does so beside training: checkpoint and evidence of an epoch are on disk before its report is made,
    while the next epoch trains, and the answer is looked at when that one ends. So a kill at any moment costs at most
    two epochs, and a trial that is told to stop drops the one that it has trained since.

    Args:
        config: The whole trial.
        data: Domains of the study.
        report: Called on rank 0 after every epoch, and again for every epoch that a checkpoint knows of.
        files: Where checkpoint and evidence go.
        rule: Says what is looked at in each epoch, and what is maximised.

    Returns:
        Whether full fidelity was reached.

    Raises:
        NotFinite: If a loss is no longer finite.
        InvalidInput: If a parameter of a closed-form method does not fit the domains.
        StorageFailed: If the system refuses to write.
    """
    kind: type[TrialRun] | type[ClosedFormRun] = ClosedFormRun if is_closed_form(config.method.name) else TrialRun
    return train_run(kind(config, data, rule), report, files)


def train_run(run: TrialRun | ClosedFormRun, report: Report, files: TrialFiles) -> bool:
    """As `train_trial`, of a trial that stands ready."""
    state, epochs = _shared_checkpoint(files), run.config.epochs
    last = run.restore(state)
    known = [] if last is None or state is None or rank() != 0 else reports_of(state, last)
    with Beside(files, report, known) as beside:
        if _told_to_stop(beside) or (last is not None and last.epoch == epochs):
            return last is not None and last.epoch == epochs
        for epoch in range(last.epoch if last else run.first_epoch, epochs):
            finished = run.epoch(epoch)
            if _told_to_stop(beside):
                return False
            if rank() == 0:
                beside.take(Left(finished, run.state(finished), run.evidence, run.final_evidence))
            if finished.epoch == epochs:
                break
        _told_to_stop(beside)
    return True


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint, looked at again.

    Attributes:
        scores: Label-free score by validator.
        histogram: Share of each class among the predictions on the target, [C].
        agreement: Share of target examples on which the prediction equals that of the recorded evidence.
    """

    scores: dict[str, float]
    histogram: list[float]
    agreement: float


def evaluate_checkpoint(config: TrialConfig, data: TrialData, files: TrialFiles, rule: SelectionRule) -> Evaluation:
    """Load a trial's network afresh, evaluate it, and compare with the evidence that the trial left.

    Raises:
        TrialFailed: If the trial left no checkpoint.
    """
    model = load_model(config, data, files)
    evidence = gather_evidence(model, data.recorded_inputs(views_of(config.test_time_augmentation)), data.device)
    scores, histogram = scores_of(evidence, data, rule)
    recorded = files.load_evidence()["target"].argmax(axis=1)
    agreement = float((evidence["target"].argmax(axis=1) == recorded).mean())
    return Evaluation(scores, histogram, agreement)


def _shared_checkpoint(files: TrialFiles) -> State | None:
    """Rank 0 reads, so that all ranks go on from the same epoch even where storage lags between nodes."""
    state = [files.load_checkpoint() if rank() == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(state, 0)
    return state[0]


def _told_to_stop(beside: Beside) -> bool:
    """Rank 0 waits for the answer to its last report; all ranks learn it, or what went wrong."""
    answer: list[bool | RayTLError] = [_answer(beside) if rank() == 0 else False]
    if world_size() > 1:
        dist.broadcast_object_list(answer, 0)
    if isinstance(answer[0], RayTLError):
        raise answer[0]
    return answer[0]


def _answer(beside: Beside) -> bool | RayTLError:
    try:
        return beside.answer()
    except RayTLError as error:
        return error
