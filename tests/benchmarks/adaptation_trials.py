"""Part "trials" of `adaptation.py`: whole trials of every method, as a search would run them, without Ray."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from ray_tl.config import TrialConfig
from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.domains import DomainPair, LabelledDomain, OracleLabels, UnlabelledDomain
from ray_tl.data.images import list_images
from ray_tl.data.load import load_pair
from ray_tl.data.places import HALVES_SEED
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.splits import random_halves, stratified_split
from ray_tl.search_space import DataOptions
from ray_tl.selection import ByAgreement, SelectionContext
from ray_tl.selection.oracle import oracle_accuracy
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from ray_tl.training.report import EpochReport

HOLDOUT_FRACTION, SPLIT_SEED = 0.2, 0

# Every stage frozen, so that activations are computed once; the rest is the default of `TrialConfig`.
_EMOJI = {
    "backbone": "efficientnet_lite0",
    "freeze_depth": 9,
    "adaptor": "bottleneck",
    "epochs": 12,
}
# The middle of each range of search_spaces/digits.yaml, on a logarithmic scale where it is one, a bottleneck and the
# label smoothing of SHOT (Liang et al., 2020, https://arxiv.org/abs/2002.08546, eq. 1).
_DIGITS = {
    "backbone": {"small_cnn": {"width": 16}},
    "loss_weighting": {"linear": {"domain": 1.73}},
    "optimizer": {"adamw": {"lr": 6.3e-3}},
    "augmentation": {"affine": {"scale": 0.275, "degrees": 12.5}},
    "adaptor": "bottleneck",
    "label_smoothing": 0.1,
    "epochs": 12,
}
_FEW_DIGITS = {**_DIGITS, "epochs": 36}  # optdigits are a third of MNIST's: as many steps


@dataclass(frozen=True)
class Task:
    """A pair of domains, what a trial on it looks like, and the true classes of the held-out target.

    Attributes:
        data: Shared by all trials, with their cache.
        oracle: Read once a trial has ended.
    """

    data: TrialData
    fields: dict[str, object]
    oracle: OracleLabels


def load_task(name: str, emoji: Path) -> Task:
    if name == "mnist>optdigits":
        return _digits(load_mnist_5k, load_optdigits, _DIGITS)
    if name == "optdigits>mnist":
        return _digits(load_optdigits, load_mnist_5k, _FEW_DIGITS)
    source, target = name.split(">")
    folders = emoji / source / "train", emoji / target / "train", emoji / target / "test"
    options = DataOptions(image_size=96, channels=3, holdout_fraction=HOLDOUT_FRACTION, on_overlap="skip")
    pair = load_pair(*map(str, folders), options, SPLIT_SEED)
    oracle = OracleLabels({name: name.split("/")[0] for name in list_images(folders[2])})
    return Task(TrialData(pair, torch.device("cpu")), _EMOJI, oracle)


def run_trial(task: Task, method: str, seed: int) -> dict[str, object]:
    """Train one trial to its end; only then is its accuracy on the held-out target looked up."""
    config = TrialConfig.model_validate({**task.fields, "method": method, "seed": seed})
    reports: list[EpochReport] = []

    def keep(report: EpochReport) -> bool:
        reports.append(report)
        return False

    pair = task.data.pair
    with tempfile.TemporaryDirectory(prefix="trial-") as name:
        files = TrialFiles(Path(name), 0)
        rule = ByAgreement(SelectionContext(pair.source.classes, (), num_target=len(task.data.recorded["target"])))
        train_trial(config, task.data, keep, files, rule)
        evidence = files.load_evidence()["target_test"]
    return {
        "accuracy": oracle_accuracy(evidence, pair.target_test.ids, pair.source.classes, task.oracle),
        "seconds": sum(report.seconds for report in reports),
        "scores": reports[-1].scores,
        "findings": reports[-1].findings,
    }


def _digits(load_source: object, load_target: object, fields: dict[str, object]) -> Task:
    preprocessing = Preprocessing(image_size=16, channels=1)
    training, holdout = stratified_split(load_source(preprocessing), HOLDOUT_FRACTION, SPLIT_SEED)
    target = load_target(preprocessing)
    searched, test = (_unlabelled(half) for half in random_halves(target, HALVES_SEED))
    pair = DomainPair(training, holdout, searched, preprocessing, test)
    classes = {key: target.classes[label] for key, label in zip(target.ids, target.labels, strict=True)}
    return Task(TrialData(pair, torch.device("cpu")), fields, OracleLabels(classes))


def _unlabelled(domain: LabelledDomain) -> UnlabelledDomain:
    return UnlabelledDomain(domain.name, domain.inputs, domain.ids)
