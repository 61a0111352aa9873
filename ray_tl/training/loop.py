"""Train one trial, in plain PyTorch, on one rank or many."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ray_tl.adaptation import METHODS, DomainOutputs, MethodContext
from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.adaptation.loss_weights import LOSS_WEIGHTS
from ray_tl.adaptation.method import View
from ray_tl.collectives import rank, world_size
from ray_tl.config import TrialConfig
from ray_tl.data.augmentation import AUGMENTATIONS, dropped_activations
from ray_tl.data.domains import DomainPair
from ray_tl.errors import TrialFailed
from ray_tl.models.distributed_norm import convert_batch_norm
from ray_tl.models.domain_norm import domain_of
from ray_tl.models.fine_tuning import LR_MULTIPLIERS, UNFREEZING, parameter_groups, set_freeze_depth
from ray_tl.training.batches import PairedBatches, Step
from ray_tl.training.closed_form import ClosedFormRun
from ray_tl.training.data import Inputs, TrialData
from ray_tl.training.doctor import findings, gradient_norms
from ray_tl.training.evaluation import predict_outputs
from ray_tl.training.examination import (
    Evidence,
    confidence_gap,
    domains_told_apart,
    gather_evidence,
    histogram_drift,
    scores_of,
)
from ray_tl.training.files import State, TrialFiles
from ray_tl.training.network import build_model, load_model
from ray_tl.training.optimisation import LR_SCHEDULES, OPTIMIZERS, set_learning_rates
from ray_tl.training.randomness import derive_seed, generator
from ray_tl.training.report import EpochReport, Report
from ray_tl.training.task import AdaptationTask

MAX_GRADIENT_NORM = 1.0


def train_trial(
    config: TrialConfig, data: TrialData, report: Report, files: TrialFiles, validators: Sequence[str]
) -> bool:
    """Train until full fidelity or until told to stop; go on from the checkpoint if there is one.

    A closed-form method trains nothing: its only epoch is the last.

    On W ranks of an initialised process group, each rank calls this with the same arguments; rank 0 alone reports
    and writes. After every epoch the checkpoint and the evidence are on disk before the report is made, so a kill at
    any moment costs at most the epoch in hand.

    Args:
        config: The whole trial.
        data: Domains of the study.
        report: Called on rank 0 after every epoch, and once more for the last epoch of a checkpoint.
        files: Where checkpoint and evidence go.
        validators: Names of the label-free scores.

    Returns:
        Whether full fidelity was reached.

    Raises:
        TrialFailed: If a loss is no longer finite.
        InvalidInput: If a parameter of a closed-form method does not fit the domains.
    """
    kind: type[TrialRun] | type[ClosedFormRun] = ClosedFormRun if is_closed_form(config.method.name) else TrialRun
    run = kind(config, data, validators)
    last = run.restore(_shared_checkpoint(files))
    if last is not None and _told_to_stop(report, last):
        return last.epoch == config.epochs
    for epoch in range(last.epoch if last else run.first_epoch, config.epochs):
        finished = run.epoch(epoch)
        if rank() == 0:
            files.save_evidence(run.evidence)
            files.save_checkpoint(run.state(finished))
        if _told_to_stop(report, finished):
            return epoch + 1 == config.epochs
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


def evaluate_checkpoint(
    config: TrialConfig, data: TrialData, files: TrialFiles, validators: Sequence[str]
) -> Evaluation:
    """Load a trial's network afresh, evaluate it, and compare with the evidence that the trial left.

    Raises:
        TrialFailed: If the trial left no checkpoint.
    """
    model = load_model(config, data, files)
    evidence = gather_evidence(model, Inputs(data.images, 0), data.device)
    scores, histogram = scores_of(evidence, data, validators)
    recorded = files.load_evidence()["target"].argmax(axis=1)
    agreement = float((evidence["target"].argmax(axis=1) == recorded).mean())
    return Evaluation(scores, histogram, agreement)


class TrialRun:
    """State of a trial between epochs.

    Args:
        config: The whole trial.
        data: Domains of the study.
        validators: Names of the label-free scores.
    """

    def __init__(self, config: TrialConfig, data: TrialData, validators: Sequence[str]) -> None:
        self.config, self.data, self.validators = config, data, validators
        self.first_epoch = 0
        self.task = self._build_task()
        self._unfreezing = UNFREEZING.create(config.unfreezing.name, config.unfreezing.params)
        self._schedule = LR_SCHEDULES.create(config.lr_schedule.name, config.lr_schedule.params)
        self._augmentation = AUGMENTATIONS.create(config.augmentation.name, config.augmentation.params)
        self._strong = AUGMENTATIONS.create("strong", {})
        self._choice = OPTIMIZERS.create(config.optimizer.name, config.optimizer.params)
        self._optimizer, self._base_rates = self._build_optimizer()
        self._lr = self._choice.lr
        sizes = len(data.pair.source), len(data.pair.target)
        self._batches = PairedBatches(
            *sizes, config.batch_size, rank(), world_size(), config.seed, _num_labelled(data.pair)
        )
        self._depth = -1
        self._gap = 0.0
        self._accuracy_before: float | None = None
        self._step_module: nn.Module = self.task
        self._inputs = Inputs(data.images, 0)
        self.evidence: Evidence = {}

    def epoch(self, epoch: int) -> EpochReport:
        """Train epoch number `epoch` (from 0) and evaluate; raises `TrialFailed` on a loss that is not finite."""
        start = time.perf_counter()
        self._enter_phase(epoch / self.config.epochs)
        if self._accuracy_before is None:
            self._accuracy_before = self._domain_accuracy()
        self._begin_epoch(epoch / self.config.epochs)
        losses, weights = self._train(epoch)
        scores, histogram = self._evaluate()
        health = self._examine(epoch, histogram)
        report = EpochReport(
            epoch=epoch + 1,
            scores=scores,
            histogram=histogram,
            losses=losses,
            weights=weights,
            freeze_depth=self._depth,
            lr=self._lr,
            seconds=time.perf_counter() - start,
            gap=self._gap,
            health=health,
            cached_stages=self._inputs.start,
        )
        method, progress = self.task.method, (epoch + 1) / self.config.epochs
        found = findings(report, progress, method.aligns_features, method.idle_losses(progress))
        return replace(report, findings=[*self._batch_notes(), *found])

    def state(self, report: EpochReport) -> State:
        """All that `restore` needs; randomness and schedules are functions of seed and progress."""
        return {"task": self.task.state_dict(), "optimizer": self._optimizer.state_dict(), "report": asdict(report)}

    def restore(self, state: State | None) -> EpochReport | None:
        """Take up a saved state; gives the report of its last epoch."""
        if state is None:
            return None
        self.task.load_state_dict(state["task"])
        self._optimizer.load_state_dict(state["optimizer"])
        report = EpochReport(**state["report"])
        self._gap = report.gap
        self._accuracy_before = report.health["domain_accuracy_before"]
        return report

    def _build_task(self) -> AdaptationTask:
        model = build_model(self.config, self.data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.config.seed, "method"))
            pair = self.data.pair
            rows = len(pair.source), len(pair.target), _num_labelled(pair)
            context = MethodContext(model.feature_dim, pair.num_classes, *rows)
            method = METHODS.create(self.config.method.name, self.config.method.params, context)
        weights = LOSS_WEIGHTS.create(self.config.loss_weighting.name, self.config.loss_weighting.params)
        task = AdaptationTask(model, method, weights, self.config.target_label_weight)
        if world_size() > 1:
            convert_batch_norm(task)
        return task.to(self.data.device)

    def _build_optimizer(self) -> tuple[torch.optim.Optimizer, list[float]]:
        choice = self._choice
        multipliers = LR_MULTIPLIERS.create(self.config.lr_multipliers.name, self.config.lr_multipliers.params)
        model = self.task.model
        groups: list[Any] = [*parameter_groups(model, choice.lr, multipliers.multipliers(model.backbone.num_stages))]
        others = [value for name, value in self.task.named_parameters() if not name.startswith("model.")]
        learned = [value for value in others if value.requires_grad]
        groups += [{"params": learned, "lr": choice.lr, "name": "method"}] if learned else []
        return choice.build(groups), [float(group["lr"]) for group in groups]

    def _enter_phase(self, progress: float) -> None:
        """Unfreeze what this epoch trains, and wrap in DDP anew: DDP does not see a parameter unfrozen later."""
        num_stages = self.task.model.backbone.num_stages
        depth = self._unfreezing.depth_at(progress, self.config.freeze_depth, num_stages)
        if depth == self._depth:
            return
        set_freeze_depth(self.task.model, depth)
        self._depth = depth
        augmented = self.config.augmentation.name != "none"
        self._inputs = Inputs(self.data.images, 0) if augmented else self.data.inputs(self.task.model, depth)
        if world_size() > 1:
            self._step_module = DistributedDataParallel(self.task, broadcast_buffers=False)

    def _begin_epoch(self, progress: float) -> None:
        """Let the method look at whole domains, if it asks for that."""
        labels = {"source": self.data.labels, "target": None, "target_labelled": self.data.target_labels}
        domains = {
            name: DomainOutputs(*self._domain_outputs(name), self._on_device(labels[name]))
            for name in self.task.method.needs_domains
        }
        if domains:
            self.task.method.begin_epoch(domains, progress)

    def _domain_outputs(self, name: str) -> tuple[Tensor, Tensor]:
        features, logits = self._predict(name, self._inputs.rows[name])
        return features.to(self.data.device), logits.to(self.data.device)

    def _predict(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of rows of a data set, in evaluation mode."""
        return predict_outputs(self.task.model, rows, self._inputs.start, self.data.device, domain_of(name))

    def _train(self, epoch: int) -> tuple[dict[str, float], dict[str, float]]:
        torch.manual_seed(derive_seed(self.config.seed, "dropout", epoch))
        self.task.train()
        totals: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        steps = self._batches.steps_per_epoch
        for index, step in enumerate(self._batches.epoch(epoch)):
            number, num_steps = epoch * steps + index, steps * self.config.epochs
            progress = number / num_steps
            if (number - 1) / num_steps < self.task.method.restart <= progress:
                self._optimizer.state.clear()
            losses, weights = self._step(step, progress, epoch, index)
            for name, loss in losses.items():
                totals[name] = totals.get(name, torch.zeros((), device=loss.device)) + loss.detach()
        return self._mean_over_ranks(totals, steps), weights

    def _step(self, step: Step, progress: float, epoch: int, index: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        inputs = self._step_inputs(step, progress, epoch, index)
        factor = self._schedule(progress)
        self._lr = self._choice.lr * factor
        set_learning_rates(self._optimizer, self._base_rates, factor)
        self._optimizer.zero_grad(set_to_none=True)
        total, losses, weights = self._step_module(*inputs)
        total.backward()
        self.task.method.before_step(self.task.model, progress)
        nn.utils.clip_grad_norm_(self.task.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self.task.method.after_step(self.task.model, progress)
        return losses, weights

    def _step_inputs(self, step: Step, progress: float, epoch: int, index: int) -> tuple[Any, ...]:
        """The arguments of `AdaptationTask.forward`, on the device."""
        views, rows = self._views(step, progress, epoch, index)
        labels = self.data.labels[step.source_rows if "source" in views else []].to(self.data.device)
        few = self.data.target_labels
        target_labels = None if few is None or "target_labelled" not in views else few[step.labelled_rows]
        return views, rows, labels, self._inputs.start, progress, self._gap, self._on_device(target_labels)

    def _views(
        self, step: Step, progress: float, epoch: int, index: int
    ) -> tuple[dict[View, Tensor], dict[View, Tensor]]:
        """What enters the network, and which rows of their domains these are, for each view that is needed now."""
        random = generator(self.config.seed, "augmentation", epoch, index)
        numbers = {"source": step.source_rows, "target": step.target_rows, "target_labelled": step.labelled_rows}
        views: dict[View, Tensor] = {}
        for name in self._needed_views(progress):
            domain = "target" if name == "strong" else name
            inputs = self._inputs.rows[domain][numbers[domain]].to(self.data.device)
            change = self._strong_view if name == "strong" else self._weak_view
            views[name] = change(inputs, random, step)
        return views, {name: numbers["target" if name == "strong" else name].to(self.data.device) for name in views}

    def _needed_views(self, progress: float) -> tuple[View, ...]:
        method = self.task.method
        needs = method.needs_at(progress)
        joins = method.takes_target_labels and self.config.target_label_weight > 0
        if self.data.target_labels is None or not joins or "target_labelled" in method.needs:
            return needs
        return (*needs, "target_labelled")

    def _on_device(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.data.device)

    def _weak_view(self, inputs: Tensor, random: torch.Generator, step: Step) -> Tensor:
        if self._inputs.start > 0:
            return inputs
        return self._augmentation.augment(inputs.float() / 255, random, step.share, step.total)

    def _strong_view(self, inputs: Tensor, random: torch.Generator, step: Step) -> Tensor:
        weak = self._weak_view(inputs, random, step)
        if self._inputs.start > 0:
            return dropped_activations(weak, random, step.share, step.total)
        return self._strong.augment(weak, random, step.share, step.total)

    def _mean_over_ranks(self, totals: dict[str, Tensor], steps: int) -> dict[str, float]:
        means = torch.stack(list(totals.values())) / steps
        if world_size() > 1:
            dist.all_reduce(means)
            means /= world_size()
        values = dict(zip(totals, means.tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrialFailed(f"loss {name!r} is {value}; a lower learning rate or loss weight keeps it finite.")
        return values

    def _evaluate(self) -> tuple[dict[str, float], list[float]]:
        model, inputs = self.task.model, self._inputs
        if self.task.method.sets_statistics:
            self.task.method.before_evaluation(model, self._target_batches(), inputs.start)
        self.evidence = gather_evidence(model, inputs, self.data.device)
        self._gap = confidence_gap(self.evidence)
        return scores_of(self.evidence, self.data, self.validators)

    def _target_batches(self) -> Iterator[Tensor]:
        """This rank's share of joint batches of the target, of equal size, as it enters the network unchanged.

        Rows that do not fill a batch are left out; which ones is a function of the seed.
        """
        rows, joint = self._inputs.rows["target"], self._batches.per_rank * world_size()
        order = torch.randperm(len(rows), generator=generator(self.config.seed, "target batches"))
        for batch in order.split(joint):
            if len(batch) == joint:
                yield rows[batch.chunk(world_size())[rank()]].to(self.data.device)

    def _examine(self, epoch: int, histogram: list[float]) -> dict[str, float]:
        """What the doctor measures after an epoch; nothing of the trial changes."""
        step = next(self._batches.epoch(epoch))
        progress = (epoch + 1) / self.config.epochs
        self.task.eval()
        _, losses, weights = self.task(*self._step_inputs(step, progress, epoch, 0))
        trained = [value for value in self.task.model.parameters() if value.requires_grad]
        norms = gradient_norms(losses, weights, trained)
        measured = {
            **{f"gradient_{name}": norm for name, norm in norms.items() if math.isfinite(norm)},
            "domain_accuracy": self._domain_accuracy(),
            "domain_accuracy_before": float(self._accuracy_before or 0.0),
            "histogram_drift": histogram_drift(histogram, self.data),
        }
        adaptation = math.hypot(*(norm for name, norm in norms.items() if name != "task"))
        if len(norms) > 1 and norms["task"] > 0 and math.isfinite(adaptation / norms["task"]):
            measured["gradient_ratio"] = adaptation / norms["task"]
        return measured

    def _batch_notes(self) -> list[str]:
        """What became of the batch size that was asked for."""
        actual = self._batches.per_rank * world_size()
        if actual == self.config.batch_size:
            return []
        return [
            f"batch_size={self.config.batch_size} became {actual}, the most that {world_size()} workers share evenly "
            f"and the smaller domain of {min(self._batches.num_source, self._batches.num_target)} rows holds."
        ]

    def _domain_accuracy(self) -> float:
        return domains_told_apart(self.task.model, self._inputs, self.data.device, self.config.seed)


def _num_labelled(pair: DomainPair) -> int:
    return 0 if pair.target_labelled is None else len(pair.target_labelled)


def _shared_checkpoint(files: TrialFiles) -> State | None:
    """Rank 0 reads, so that all ranks go on from the same epoch even where storage lags between nodes."""
    state = [files.load_checkpoint() if rank() == 0 else None]
    if world_size() > 1:
        dist.broadcast_object_list(state, 0)
    return state[0]


def _told_to_stop(report: Report, epoch: EpochReport) -> bool:
    """Rank 0 reports; all ranks learn the answer."""
    answer = [report(epoch) if rank() == 0 else False]
    if world_size() > 1:
        dist.broadcast_object_list(answer, 0)
    return answer[0]
