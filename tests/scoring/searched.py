"""A study of digits whose trials have really been trained, without Ray."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ray_tl.config import TrialConfig
from ray_tl.data.digits import load_optdigits
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.samples import write_sample_folders
from ray_tl.planning.plan import plan_search
from ray_tl.search_space import DataOptions, SearchFile
from ray_tl.selection import rule_of
from ray_tl.study.records import DataSource, EpochRecord, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from tests.training.tiny import Reports

METHODS = ("source_only", "nearest_mean", "logistic", "knn")
FIELDS = {"backbone": {"tiny_cnn": {"width": 8}}, "epochs": 1, "batch_size": 64}
PER_CLASS = 15


def write_labelled(root: Path, per_class: int, turn: int = 0) -> str:
    """Class folders of further target digits; `turn` classes on from the true ones."""
    digits = load_optdigits(Preprocessing(image_size=8, channels=1))
    for label in range(10):
        for row in np.flatnonzero(digits.labels == label)[PER_CLASS : PER_CLASS + per_class]:
            folder = root / digits.classes[(label + turn) % 10]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.inputs[row, 0]).save(folder / f"{row}.png")
    return str(root)


def searched(
    home: Path, methods: Sequence[object] = METHODS, selection: object = "agreement", **data: object
) -> StudyStore:
    """A finished study of all trials, without a champion.

    Args:
        home: Gets the study, and its images in a folder `data`.
        methods: Of the trials; the first is taken for source-only.
        selection: Rule of choice.
        data: Fields of `DataSource`, or of its options.
    """
    known = {name: data.pop(name) for name in list(data) if name in DataOptions.model_fields}
    options = DataOptions.model_validate({"image_size": 8, "channels": 1, **known})
    source, target = map(str, write_sample_folders(home / "data", PER_CLASS))
    places = DataSource(source=source, target=target, options=options, **data)
    trial = {"backbone": FIELDS["backbone"], "method": "logistic"}
    file = SearchFile(data=options, search={"epochs": 1, "selection": selection}, trial=trial)
    first = [TrialConfig.model_validate({**FIELDS, "method": method}) for method in methods]
    plan = plan_search(file, places, "digits", home / "studies", first)
    shared, rule = TrialData(plan.pair.for_trials(), torch.device("cpu")), rule_of(plan.store.spec)
    for _ in methods:
        trial, reports = plan.store.ask(), Reports()
        train_trial(trial.config, shared, reports, TrialFiles(plan.store.folder, trial.number), rule)
        for report in reports:
            objective = rule.objective(report.scores, report.histogram)
            plan.store.add_epoch(trial.number, EpochRecord(objective=objective, **asdict(report)), 1)
        plan.store.finish(trial.number, TrialState.COMPLETE)
    return plan.store
