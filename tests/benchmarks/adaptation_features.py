"""Part "features" of `adaptation.py`: methods on features that stay as they are, step for step beside other libraries.

Every contender trains the same small network, a bottleneck and a linear head with the same first weights, on the same
batches with the same optimiser and without gradient clipping; a step is timed from a batch in memory to moved weights.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext
from ray_tl.adaptation.closed_form import CLOSED_FORM
from ray_tl.adaptation.loss_weights import Constant
from ray_tl.config import Component
from ray_tl.data.augmentation import dropped_activations
from ray_tl.data.images import read_labelled_folder
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.models.adaptors import ADAPTORS, AdaptorContext
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.domain_norm import DOMAIN_NORMS, convert_norms
from ray_tl.models.features import FEATURES, FeaturesContext
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone
from ray_tl.models.transfer_model import TransferModel, build_transfer_model
from ray_tl.randomness import derive_seed, generator
from ray_tl.training.batches import PairedBatches
from ray_tl.training.evaluation import predict_outputs
from ray_tl.training.task import AdaptationTask

# One setting for all methods and libraries: the defaults of `TrialConfig` and the epochs of image_folders.yaml, but a
# constant rate, because the other libraries bring no schedule.
BATCH_SIZE, EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 64, 12, 1e-3, 1e-4
WARM_UP_STEPS = 10
REPEATS = 10
STEP_FOR_STEP = {"adda": {"rate": 1.0}}  # the same rate all along, as everybody has here
LIKE_SKADA = {"cdan": {"condition": "logits"}}  # where both domains are normalised together, as it does
NEED_TARGET_LABELS = ("fine_tune", "source_and_target", "tradaboost")


@dataclass(frozen=True)
class Features:
    """Features of an EfficientNet-Lite0 that nothing trains.

    Attributes:
        source: [N, D], with labels.
        labels: int64 [N].
        target: [M, D], of the same half of the images as the source.
        test: [K, D], of the other half of the target.
        num_classes: C.
    """

    source: Tensor
    labels: Tensor
    target: Tensor
    test: Tensor
    num_classes: int


@dataclass(frozen=True)
class Batch:
    """One step's rows, the same for every contender.

    Attributes:
        strong: The target's rows with a fifth of their features set to 0.
        source_rows: Their numbers.
        target_rows: Their numbers.
        progress: In [0, 1).
    """

    source: Tensor
    labels: Tensor
    target: Tensor
    strong: Tensor
    source_rows: Tensor
    target_rows: Tensor
    progress: float


class Contender(Protocol):
    """One implementation of one method, on its way through training."""

    def begin_epoch(self, progress: float) -> None: ...

    def step(self, batch: Batch) -> None: ...

    def finish(self) -> None: ...

    def predict(self, rows: Tensor) -> Tensor: ...


Build = Callable[[str, TransferModel], Contender]
SolvePeer = Callable[[Features, int], Tensor]


def load_features(emoji: Path, source: str, target: str, cache: Path) -> tuple[Features, Tensor]:
    """Features, and apart from them the classes of the test rows, for the score at the very end."""
    if not cache.is_file():
        _extract(emoji, source, target, cache)
    with np.load(cache) as stored:
        rows = {name: torch.from_numpy(stored[name]) for name in stored.files}
    num_classes = int(rows["labels"].max()) + 1
    return Features(rows["source"], rows["labels"], rows["target"], rows["test"], num_classes), rows["test_labels"]


def compare(
    name: str, features: Features, seed: int, norm: str, peers: dict[str, Build], test_labels: Tensor
) -> dict[str, dict]:
    """Train ours and every peer side by side; accuracy on the test rows and milliseconds a step of each."""
    model = _network(features, seed, "batch" if norm in DOMAIN_NORMS.names() else norm)
    builders: dict[str, Build] = {"ray_tl": lambda _, network: Ours(name, network, features, norm), **peers}
    results: dict[str, dict] = {}
    contenders: dict[str, Contender] = {}
    for library, build in builders.items():
        torch.manual_seed(derive_seed(seed, "method"))
        contenders[library] = build(name, copy.deepcopy(model))
    times = _train(contenders, features, seed)
    for library, contender in contenders.items():
        contender.finish()
        accuracy = (contender.predict(features.test) == test_labels).double().mean()
        results[library] = {"accuracy": float(accuracy), "step_ms": 1e3 * float(np.median(times[library]))}
    return results


class Ours:
    """A method of `ray_tl` in the task that trials train too."""

    def __init__(self, name: str, model: TransferModel, features: Features, norm: str) -> None:
        self._features = features
        if norm in DOMAIN_NORMS.names():
            convert_norms([model.adaptor], DOMAIN_NORMS.create(norm, {}).convert)
        sizes = len(features.source), len(features.target)
        settings = {**STEP_FOR_STEP.get(name, {}), **(LIKE_SKADA.get(name, {}) if norm == "batch" else {})}
        self._method = METHODS.create(name, settings, MethodContext(model.feature_dim, features.num_classes, *sizes))
        self._task = AdaptationTask(model, self._method, Constant())
        self._model = model
        self._before = 0.0
        self._optimizer = self._new_optimizer()

    def begin_epoch(self, progress: float) -> None:
        given = {"source": (self._features.source, self._features.labels), "target": (self._features.target, None)}
        outputs = {
            name: (*predict_outputs(self._model, given[name][0], 1, domain=name), given[name][1])
            for name in self._domains
        }
        if outputs:
            self._method.begin_epoch({name: DomainOutputs(*row) for name, row in outputs.items()}, progress)
        self._task.train()

    def step(self, batch: Batch) -> None:
        if self._before < self._method.restart <= batch.progress:
            self._optimizer = self._new_optimizer()
        self._before = batch.progress
        views = {name: getattr(batch, name) for name in self._method.needs_at(batch.progress)}
        numbers = {name: batch.source_rows if name == "source" else batch.target_rows for name in views}
        labels = batch.labels if "source" in views else batch.labels[:0]
        self._optimizer.zero_grad(set_to_none=True)
        self._task(views, numbers, labels, 1, batch.progress, 0.0).total.backward()
        self._method.before_step(self._model, batch.progress)
        self._optimizer.step()
        self._method.after_step(self._model, batch.progress)

    def finish(self) -> None:
        if self._method.sets_statistics:
            batches = self._features.target.split(BATCH_SIZE)
            self._method.before_evaluation(self._model, [rows for rows in batches if len(rows) == BATCH_SIZE], 1)

    def predict(self, rows: Tensor) -> Tensor:
        return predict_outputs(self._model, rows, 1)[1].argmax(dim=1)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        return optimizer([value for value in self._task.parameters() if value.requires_grad])

    @property
    def _domains(self) -> tuple[str, ...]:
        return self._method.needs_domains


def optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def comparable_methods() -> list[str]:
    return ["source_only", *(name for name in METHODS.names() if name not in ("source_only", *NEED_TARGET_LABELS))]


def compare_closed_form(name: str, features: Features, peer: SolvePeer | None, test_labels: Tensor) -> dict[str, dict]:
    """Accuracies on the test rows with `REPEATS` seeds, in turn, and milliseconds to solve and predict, the least."""
    context = MethodContext(features.source.shape[1], features.num_classes)

    def ours(features: Features, seed: int) -> Tensor:
        head = CLOSED_FORM.create(name, {}, context).fit(features.source, features.labels, features.target, seed)
        return head(features.test).argmax(dim=1)

    solvers = {"ray_tl": ours, **({} if peer is None else {"skada": peer})}
    times: dict[str, list[float]] = {library: [] for library in solvers}
    accuracies: dict[str, list[float]] = {library: [] for library in solvers}
    for seed in range(REPEATS):
        for library, solve in solvers.items():
            started = time.perf_counter()
            predicted = solve(features, seed)
            times[library].append(time.perf_counter() - started)
            accuracies[library].append(float((predicted == test_labels).double().mean()))
    return {key: {"accuracies": accuracies[key], "step_ms": 1e3 * min(times[key])} for key in solvers}


def _train(contenders: dict[str, Contender], features: Features, seed: int) -> dict[str, list[float]]:
    """Seconds of each step after the first few, by contender; whoever goes first changes with every step."""
    times: dict[str, list[float]] = {library: [] for library in contenders}
    order = list(contenders)
    batches = PairedBatches(len(features.source), len(features.target), BATCH_SIZE, 0, 1, seed)
    for epoch in range(EPOCHS):
        for contender in contenders.values():
            contender.begin_epoch(epoch / EPOCHS)
        for index, step in enumerate(batches.epoch(epoch)):
            source, target = features.source[step.source_rows], features.target[step.target_rows]
            strong = dropped_activations(target, generator(seed, "augmentation", epoch, index))
            progress = (epoch + index / batches.steps_per_epoch) / EPOCHS
            rows = step.source_rows, step.target_rows
            batch = Batch(source, features.labels[step.source_rows], target, strong, *rows, progress)
            order = [*order[1:], order[0]]
            for library in order:
                started = time.perf_counter()
                contenders[library].step(batch)
                times[library].append(time.perf_counter() - started)
    return {library: seconds[WARM_UP_STEPS:] for library, seconds in times.items()}


def _network(features: Features, seed: int, norm: str) -> TransferModel:
    """Bottleneck and head as in a trial, behind a frozen stage that gives the features as they are."""
    torch.manual_seed(derive_seed(seed, "model"))
    width = features.source.shape[1]
    stages = StagedBackbone([nn.Identity()], ["features"], width, ImageEntry(Normalisation((0.0,), (1.0,))))
    bottleneck = ADAPTORS.create("bottleneck", {"norm": norm}, AdaptorContext(width))
    last = FEATURES.create("last", {}, FeaturesContext(stages, "features"))
    return TransferModel(stages, last, bottleneck, features.num_classes)


def _extract(emoji: Path, source: str, target: str, cache: Path) -> None:
    preprocessing = Preprocessing(image_size=96, channels=3)
    model = build_transfer_model(Component(name="efficientnet_lite0"), 2, BackboneContext(3, True))
    arrays = {}
    folders = {"source": emoji / source / "train", "target": emoji / target / "train", "test": emoji / target / "test"}
    domains = {name: read_labelled_folder(folder, preprocessing) for name, folder in folders.items()}
    assert domains["source"].classes == domains["test"].classes
    for name, domain in domains.items():
        arrays[name] = predict_outputs(model, torch.from_numpy(domain.inputs))[0].numpy()
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, **arrays, labels=domains["source"].labels, test_labels=domains["test"].labels)
