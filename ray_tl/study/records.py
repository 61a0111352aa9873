"""What a study remembers, as values."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ray_tl.config import TrialConfig, UserFunction
from ray_tl.data.summary import BALANCE_FIELD, DataSummary
from ray_tl.registry import Scalar
from ray_tl.search_space import DataOptions, SearchOptions
from ray_tl.study.failures import FailureKind


class TrialState(StrEnum):
    """How a trial stands. `pruned`: stopped early by the scheduler. `infeasible`: needs more memory than there is."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    INFEASIBLE = "infeasible"


class DataSource(BaseModel):
    """Where the domains of a study come from: image folders, or the packaged digits.

    Attributes:
        source: Folder of class folders, or `digits:mnist`.
        target: Folder of images, or `digits:optdigits`.
        target_test: Folder of images that no trial may train on; predictions on them are recorded.
        target_labelled: Folder of class folders with the target examples whose labels may be trained on, or chosen by
            (`options.target_labels_for`), or `digits:optdigits`; none by default.
        intermediate: Folders of domains on the way from source to target, in order.
        auxiliary: Folder of class folders of another task.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    target: str
    target_test: str | None = None
    target_labelled: str | None = None
    intermediate: tuple[str, ...] = ()
    auxiliary: str | None = None
    options: DataOptions = DataOptions()

    @property
    def trains_on_target_labels(self) -> bool:
        """Whether trials get labelled target examples."""
        return self.target_labelled is not None and self.options.target_labels_for != "choice"

    @model_validator(mode="before")
    @classmethod
    def _as_recorded(cls, value: object) -> object:
        """A record that does not say by which rules its files were read was written when there was one set of them."""
        options = value.get("options") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(options, dict):
            return value
        return {**value, "options": {"reader_version": 1, **options}}


class Advice(BaseModel):
    """A point of the search space that is tried before the sampler is asked.

    Attributes:
        params: Suggested values by path, as a sampler would give them.
        reason: In words, for a person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    params: dict[str, Scalar]
    reason: str


class StudySpec(BaseModel):
    """All that defines a study: written once, at its start.

    Attributes:
        trees: Of the search space, every `auto` resolved.
        backbones: A person's own functions, by name; their source is kept, so that every worker runs the same.
        first: Configurations that run before the sampler is asked; the first is the source-only baseline.
        advice: Points of the space that run next, of which the sampler learns as of its own.
        judge: What predictions on the target are held against when trials are compared, in words.
        data_summary: What was read, as it was shown before the search; empty in older studies.
        source_histogram: Share of each class among the source labels, [C].
        source_weight: How much the source counts in what the search maximises, in [0, 1]; see `objective`.
        num_target: Rows of the target that are evaluated and recorded.
        data_fingerprint: Of the domains, so that a resumed search can't silently run on other data.
        created_at: ISO 8601, UTC.
        artifacts: Address of checkpoints and evidence, below which the study has a folder of its name; `None` if they
            are in the folder of the study.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    data: DataSource
    search: SearchOptions
    trees: dict[str, object]
    backbones: dict[str, UserFunction] = Field(default_factory=dict)
    first: tuple[TrialConfig, ...] = Field(default=())
    advice: tuple[Advice, ...] = ()
    judge: str = ""
    data_summary: DataSummary = DataSummary()
    data_fingerprint: str
    classes: tuple[str, ...]
    source_histogram: tuple[float, ...]
    source_weight: float = 1.0
    num_target: int
    created_at: str
    artifacts: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_recorded(cls, value: object) -> object:
        """What an older record does not say: its epochs were one pass each, and its champion was not trained again."""
        search = value.get("search") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(search, dict):
            return value
        return {**value, "search": {"min_steps": None, "refit": None, **search}}

    def data_lines(self) -> list[str]:
        """What was read, for people."""
        return self.data_summary.lines(is_balanced=BALANCE_FIELD in self.trees)


class EpochRecord(BaseModel):
    """One finished epoch of a trial, as stored; `objective` is what the search maximises."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    objective: float
    scores: dict[str, float]
    histogram: list[float]
    losses: dict[str, float]
    weights: dict[str, float]
    freeze_depth: int
    lr: float
    seconds: float
    gap: float = 0.0
    health: dict[str, float] = Field(default_factory=dict)
    findings: list[str] = Field(default_factory=list)
    cached_stages: int = 0
    source_recalls: list[float | None] = Field(default_factory=list)


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as stored.

    Attributes:
        number: Counted from 0 in the order of asking.
        checkpoint: Path below the folder of the study; `None` before the first epoch, and of a pruned trial.
        cost_s: Worker-seconds spent in its epochs.
        error: Why it failed.
        failure: Of what kind that was.
        is_prepared: Whether its configuration is one of those that the study prepared, the baseline among them.
        is_baseline: Whether it is source-only as the study prepared it.
        is_advised: Whether it was advised before the search.
        refit_of: Number of the trial whose configuration this is, trained again on all of the source; of its scores
            none is on held-out examples. `None` for a trial of the search itself.
        combines: Numbers of the refits of which it is one network, or their ensemble; empty if it was trained.
    """

    number: int
    state: TrialState
    config: TrialConfig
    epochs: list[EpochRecord] = field(default_factory=list)
    checkpoint: str | None = None
    cost_s: float = 0.0
    error: str | None = None
    failure: FailureKind | None = None
    is_prepared: bool = False
    is_baseline: bool = False
    is_advised: bool = False
    refit_of: int | None = None
    combines: tuple[int, ...] = ()

    @property
    def last(self) -> EpochRecord | None:
        return self.epochs[-1] if self.epochs else None

    @property
    def at_full_fidelity(self) -> bool:
        last = self.last  # not the number of epochs: a head that is solved for has the last one alone
        return self.state is TrialState.COMPLETE and last is not None and last.epoch == self.config.epochs

    @property
    def violated(self) -> str | None:
        """What its configuration violated, by the name under which the sampler learns it."""
        return violated_constraint(self.state, self.failure)

    @property
    def is_trained_but_open(self) -> bool:
        """Whether its last epoch is stored, but not that it has ended."""
        last = self.last
        return self.state is TrialState.RUNNING and last is not None and last.epoch == self.config.epochs


def violated_constraint(state: TrialState, failure: FailureKind | None) -> str | None:
    """The constraint that a trial that has ended so violated: `memory`, or a kind of failure; `None` if none."""
    if state is TrialState.INFEASIBLE or (failure is not None and failure.is_of_memory):
        return "memory"
    return failure.value if failure is not None and failure.speaks_of_configuration else None
