"""What an epoch left is written and reported in a thread of its own, while the next one trains."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import cast

import numpy as np
import torch

from ray_tl.errors import storage_failure
from ray_tl.training.examination import Evidence
from ray_tl.training.files import State, TrialFiles
from ray_tl.training.report import EpochReport, Report
from ray_tl.validation.evidence import FinalEvidence

REPORTS = "reports"  # of all epochs so far, in a checkpoint: one that was lost on its way is made again


@dataclass(frozen=True)
class Left:
    """What an epoch left.

    Attributes:
        report: Its own.
        state: Of which a checkpoint is made.
        evidence: Predictions after the epoch.
        final_evidence: Of a trial that has ended.
    """

    report: EpochReport
    state: State
    evidence: Evidence
    final_evidence: FinalEvidence | None


class Beside:
    """Writes and reports, one epoch after the other; used on rank 0.

    Args:
        files: Where checkpoint and evidence go.
        report: Called when they are there.
        known: Reports of epochs before; they are made again.
    """

    def __init__(self, files: TrialFiles, report: Report, known: Sequence[EpochReport]) -> None:
        self._files, self._report = files, report
        self._thread = ThreadPoolExecutor(1, "beside-training")
        self._written: Evidence = {}
        self._reports = list(known)
        self._pending: Future[bool] | None = self._thread.submit(self._report_all, list(known)) if known else None

    def __enter__(self) -> "Beside":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def take(self, left: Left) -> None:
        """Write and report; the network may train on at once."""
        self._reports.append(left.report)
        reports = [asdict(report) for report in self._reports]
        state = cast(State, copied({**left.state, REPORTS: reports}))
        self._pending = self._thread.submit(self._write, left, state)

    def answer(self) -> bool:
        """Whether to stop, by the last report; `False` if there was none.

        Raises:
            StorageFailed: If the system refused to write.
        """
        return self._pending is not None and self._pending.result()

    def _write(self, left: Left, state: State) -> bool:
        try:
            if not _equal(left.evidence, self._written):
                self._files.save_evidence(left.evidence)
                self._written = left.evidence
            if left.final_evidence is not None:
                self._files.save_final_evidence(left.final_evidence)
            self._files.save_checkpoint(state)
        except OSError as error:
            raise storage_failure(error) from error
        return self._report(left.report)

    def _report_all(self, known: Sequence[EpochReport]) -> bool:
        return any([self._report(report) for report in known])


def reports_of(state: State, last: EpochReport) -> list[EpochReport]:
    """Of all epochs that a checkpoint knows of; an older one knows its last."""
    return [EpochReport(**report) for report in state.get(REPORTS, [asdict(last)])]


def copied(value: object) -> object:
    """The same on the CPU, of which training changes nothing."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(each) for each in value)
    return value


def _equal(evidence: Evidence, other: Evidence) -> bool:
    """To the bit: while nothing that trains counts yet, an epoch changes nothing."""
    return evidence.keys() == other.keys() and all(np.array_equal(evidence[name], other[name]) for name in evidence)
