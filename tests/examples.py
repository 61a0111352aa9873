"""Studies and trials as literals."""

from collections.abc import Sequence
from pathlib import Path

from ray_tl.config import Component, TrialConfig
from ray_tl.search_space import SearchOptions
from ray_tl.study.records import DataSource, EpochRecord, StudySpec, TrialRecord, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.study.studies import Studies

TREES: dict[str, object] = {
    "backbone": {"tiny_cnn": {"width": 4}},
    "method": {"choice": {"source_only": None, "mcc": {"temperature": {"uniform": [1, 5]}}}},
    "optimizer": {"adamw": {"lr": {"log_uniform": [1e-4, 1e-1]}}},
}
BASELINE = TrialConfig(backbone=Component(name="tiny_cnn", params={"width": 4}), epochs=9)


def spec(name: str = "office", first: Sequence[TrialConfig] = (BASELINE,), **search: object) -> StudySpec:
    return StudySpec(
        name=name,
        data=DataSource(source="digits:mnist", target="digits:optdigits"),
        search=SearchOptions.model_validate({"num_trials": 4, "epochs": 9, "grace_epochs": 1, **search}),
        trees=TREES,
        first=tuple(first),
        data_fingerprint="ab",
        classes=("cat", "dog"),
        source_histogram=(0.5, 0.5),
        num_target=8,
        created_at="2026-01-02T03:04:05+00:00",
    )


def store(root: Path | Studies, **settings: object) -> StudyStore:
    """A study called `office`, in a folder of this name below `root` or in other `Studies`."""
    place = root / "office" if isinstance(root, Path) else root.backend("office")
    return StudyStore.create(place, spec(**settings))


def epoch(number: int, objective: float = 0.5, source_accuracy: float = 0.9) -> EpochRecord:
    return EpochRecord(
        epoch=number,
        objective=objective,
        scores={"im": 0.25, "bnm": 0.125, "source_accuracy": source_accuracy},
        histogram=[0.5, 0.5],
        losses={"task": 1.5},
        weights={"task": 1.0},
        freeze_depth=0,
        lr=1e-3,
        seconds=2.0,
    )


def trial(
    number: int, state: TrialState = TrialState.COMPLETE, objectives: Sequence[float] = (0.5,), **fields: object
) -> TrialRecord:
    """A trial that was meant to run for as many epochs as it has objectives."""
    epochs = [epoch(index, objective) for index, objective in enumerate(objectives, 1)]
    values = {"config": BASELINE.model_copy(update={"epochs": len(epochs) or 1}), "epochs": epochs, **fields}
    return TrialRecord(number=number, state=state, **values)
