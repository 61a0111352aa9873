"""A pair of tiny domains, and trials small enough for a test."""

from dataclasses import replace

import numpy as np
import torch

from ray_tl.config import TrialConfig
from ray_tl.data.domains import DomainPair, LabelledDomain, UnlabelledDomain
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.selection import ByAgreement, SelectionContext
from ray_tl.training.data import TrialData
from ray_tl.training.report import EpochReport

VALIDATOR_NAMES = ("source_accuracy", "im", "bnm", "entropy")
RULE = ByAgreement(SelectionContext(("a", "b", "c"), (1 / 3, 1 / 3, 1 / 3), num_target=30, validators=VALIDATOR_NAMES))
SIDE, NUM_CLASSES = 8, 3
RECORDED = {"rtol": 0, "atol": 5e-4}  # probabilities are kept as logarithms in half precision
UNFREEZE_ONE_STAGE_AN_EPOCH = {"gradual": {"until": 0.75}}  # tiny_cnn has 3 stages, a trial 4 epochs


class Reports(list):
    """Keeps every report, and says stop at the given one."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.stop_at = stop_at

    def __call__(self, report: EpochReport) -> bool:
        self.append(report)
        return len(self) == self.stop_at


def tiny_pair(num_source: int = 24, num_target: int = 30, target_seed: int = 2, num_labelled: int = 0) -> DomainPair:
    """Three classes, told apart by where a bright stripe lies; the target is darker, noisier and shifted by a row.

    `num_labelled` examples of the target come with labels.
    """
    source, holdout = _labelled(num_source, seed=0), _labelled(12, seed=1)
    target, target_test = _target(num_target, target_seed), _target(6, target_seed + 1)
    few = _target_labelled(num_labelled, target_seed + 2) if num_labelled else None
    return DomainPair(source, holdout, target, Preprocessing(image_size=SIDE, channels=1), target_test, few)


def skewed_pair(*counts: int, num_holdout: int = 12, num_labelled: int = 0) -> DomainPair:
    """The pair with so many source rows of each class; all classes are as frequent as ever in the hold-out."""
    labels = np.repeat(np.arange(NUM_CLASSES), counts)
    images = _stripes(labels, bright=200, noise=40, shift=0, seed=0)
    source = LabelledDomain("source", images, _ids(len(labels)), labels, ("a", "b", "c"))
    return replace(tiny_pair(num_labelled=num_labelled), source=source, source_holdout=_labelled(num_holdout, seed=1))


def further(pair: DomainPair, rows: int = 20) -> DomainPair:
    """The pair with a labelled and then an unlabelled domain on its way, and a task of two classes."""
    steps = _labelled(rows, seed=7), replace(_target(rows + 4, seed=8), name="halfway")
    halves = _labelled(rows + 2, seed=9)
    other = replace(halves, labels=halves.labels % 2, classes=("even", "odd"))
    return replace(pair, intermediate=steps, auxiliary=other)


def tiny_data(pair: DomainPair | None = None) -> TrialData:
    return TrialData(pair or tiny_pair(), torch.device("cpu"))


def tiny_config(**changes: object) -> TrialConfig:
    """Four epochs of three steps; fields of `TrialConfig` replace the defaults here."""
    fields = {"backbone": {"tiny_cnn": {"width": 4}}, "batch_size": 8, "epochs": 4, "seed": 3}
    return TrialConfig.model_validate({**fields, **changes})


def _labelled(rows: int, seed: int) -> LabelledDomain:
    labels = np.arange(rows) % NUM_CLASSES
    images = _stripes(labels, bright=200, noise=40, shift=0, seed=seed)
    return LabelledDomain("source", images, _ids(rows), labels.astype(np.int64), ("a", "b", "c"))


def _target(rows: int, seed: int) -> UnlabelledDomain:
    # Classes are not equally frequent, unlike in the source.
    labels = np.random.default_rng(seed).choice(NUM_CLASSES, rows, p=[0.5, 0.3, 0.2])
    return UnlabelledDomain("target", _stripes(labels, bright=120, noise=80, shift=1, seed=seed), _ids(rows))


def _target_labelled(rows: int, seed: int) -> LabelledDomain:
    labels = np.arange(rows) % NUM_CLASSES
    images = _stripes(labels, bright=120, noise=80, shift=1, seed=seed)
    return LabelledDomain("target", images, _ids(rows), labels.astype(np.int64), ("a", "b", "c"))


def _stripes(labels: np.ndarray, bright: int, noise: int, shift: int, seed: int) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, noise, (len(labels), 1, SIDE, SIDE))
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label + shift : 2 * label + shift + 2, : 4 + label] += bright
    return images.astype(np.uint8)


def _ids(rows: int) -> tuple[str, ...]:
    return tuple(f"row-{row}" for row in range(rows))
