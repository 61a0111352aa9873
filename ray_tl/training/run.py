"""A trial between epochs: phases, steps, evaluation, and all that a checkpoint holds of it."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ray_tl.adaptation import DomainOutputs
from ray_tl.collectives import world_size
from ray_tl.config import TrialConfig
from ray_tl.errors import TrialFailed
from ray_tl.models.domain_norm import domain_of
from ray_tl.models.fine_tuning import UNFREEZING, stages_at
from ray_tl.models.transfer_model import stages_of
from ray_tl.training.batches import Step
from ray_tl.training.building import build_optimizer, build_task
from ray_tl.training.data import TrialData
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
from ray_tl.training.feed import Feed
from ray_tl.training.files import State
from ray_tl.training.gradients import GRADIENT_MASKING
from ray_tl.training.layer_plan import FirstStep, layer_plan
from ray_tl.training.optimisation import LR_SCHEDULES, OPTIMIZERS, set_learning_rates
from ray_tl.training.randomness import derive_seed
from ray_tl.training.regularisers import REGULARISER
from ray_tl.training.report import EpochReport


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
        self.task = build_task(config, data)
        self._unfreezing = UNFREEZING.create(config.unfreezing.name, config.unfreezing.params)
        self._schedule = LR_SCHEDULES.create(config.lr_schedule.name, config.lr_schedule.params)
        self._choice = OPTIMIZERS.create(config.optimizer.name, config.optimizer.params)
        self._optimizer, self._base_rates = build_optimizer(config, self.task, self._choice)
        self._masking = GRADIENT_MASKING.create(config.gradient_masking.name, config.gradient_masking.params)
        self._lr = self._choice.lr
        self._feed = Feed(config, data)
        self._batches = self._feed.batches
        self.plan = layer_plan(config, self.task.model)
        self._first_step: FirstStep | None = None
        self._stages: range | None = None
        self._rate = 1.0
        self._gap = 0.0
        self._accuracy_before: float | None = None
        self._step_module: nn.Module = self.task
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
            freeze_depth=0 if self._stages is None else self._stages.start,
            lr=self._lr,
            seconds=time.perf_counter() - start,
            gap=self._gap,
            health=health,
            cached_stages=self._feed.inputs.start,
        )
        method, progress = self.task.method, (epoch + 1) / self.config.epochs
        found = findings(report, progress, method.aligns_features, method.idle_losses(progress))
        return replace(report, findings=[*self._feed.notes(), *found])

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

    def _enter_phase(self, progress: float) -> None:
        """Unfreeze what this epoch trains, and wrap in DDP anew: DDP does not see a parameter unfrozen later."""
        model = self.task.model
        self._rate = self._unfreezing.rate_at(progress)
        stages = stages_at(self._unfreezing, progress, stages_of(self.config, model), model.backbone.num_stages)
        if stages == self._stages:
            return
        self._stages = stages
        model.backbone.freeze(stages.start, stages.stop)
        self._feed.enter_at(model, stages.start)
        self._first_step = FirstStep(model, self.plan, self.plan.phase_at(progress))
        if world_size() > 1 and not self._masking.joins_ranks:
            self._step_module = DistributedDataParallel(self.task, broadcast_buffers=False)

    def _begin_epoch(self, progress: float) -> None:
        """Let the method look at whole domains, if it asks for that."""
        domains = {
            name: DomainOutputs(*self._domain_outputs(name), self._feed.labels(name))
            for name in self.task.method.needs_domains
        }
        if domains:
            self.task.method.begin_epoch(domains, progress)

    def _domain_outputs(self, name: str) -> tuple[Tensor, Tensor]:
        features, logits = self._predict(name, self._feed.inputs.rows[name])
        return features.to(self.data.device), logits.to(self.data.device)

    def _predict(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of rows of a data set, in evaluation mode."""
        return predict_outputs(self.task.model, rows, self._feed.inputs.start, self.data.device, domain_of(name))

    def _train(self, epoch: int) -> tuple[dict[str, float], dict[str, float]]:
        torch.manual_seed(derive_seed(self.config.seed, "dropout", epoch))
        self.task.train()
        totals: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        steps = self._batches.steps_per_epoch
        for index, step in enumerate(self._batches.epoch(epoch)):
            progress = (epoch + index / steps) / self.config.epochs
            losses, weights = self._step(step, progress, epoch, index)
            for name, loss in losses.items():
                totals[name] = totals.get(name, torch.zeros((), device=loss.device)) + loss.detach()
        return self._mean_over_ranks(totals, steps), weights

    def _step(self, step: Step, progress: float, epoch: int, index: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        inputs = self._step_inputs(step, progress, epoch, index)
        factor = self._rate * self._schedule(progress)
        self._lr = self._choice.lr * factor
        set_learning_rates(self._optimizer, self._base_rates, factor)
        self._optimizer.zero_grad(set_to_none=True)
        found = self._step_module(*inputs)
        self._masking.backward(self.task, found)
        self.task.method.before_step(self.task.model, progress)
        if self.config.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.task.parameters(), self.config.max_gradient_norm)
        self._optimizer.step()
        if self._first_step is not None:
            self._first_step.check(self._optimizer, factor / self._rate)
            self._first_step = None
        self.task.method.after_step(self.task.model, progress)
        return found.named, found.weights

    def _step_inputs(self, step: Step, progress: float, epoch: int, index: int) -> tuple[Any, ...]:
        """The arguments of `AdaptationTask.forward`, on the device."""
        views, rows, labels, few = self._feed.views(step, self.task.method, progress, epoch, index)
        return views, rows, labels, self._feed.inputs.start, progress, self._gap, few

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
        model, inputs = self.task.model, self._feed.inputs
        if self.task.method.sets_statistics:
            self.task.method.before_evaluation(model, self._feed.target_batches(), inputs.start)
        self.evidence = gather_evidence(model, self._feed.evaluated, self.data.device)
        self._gap = confidence_gap(self.evidence)
        return scores_of(self.evidence, self.data, self.validators)

    def _examine(self, epoch: int, histogram: list[float]) -> dict[str, float]:
        """What the doctor measures after an epoch; nothing of the trial changes."""
        step = next(self._batches.epoch(epoch))
        progress = (epoch + 1) / self.config.epochs
        self.task.eval()
        found = self.task(*self._step_inputs(step, progress, epoch, 0))
        trained = [value for value in self.task.model.parameters() if value.requires_grad]
        norms = gradient_norms(found.named, found.weights, trained)
        measured = {
            **{f"gradient_{name}": norm for name, norm in norms.items() if math.isfinite(norm)},
            "domain_accuracy": self._domain_accuracy(),
            "domain_accuracy_before": float(self._accuracy_before or 0.0),
            "histogram_drift": histogram_drift(histogram, self.data),
            **self._masking.figures(),
        }
        others = [norm for name, norm in norms.items() if name not in ("task", REGULARISER)]
        adaptation = math.hypot(*others)
        if others and norms["task"] > 0 and math.isfinite(adaptation / norms["task"]):
            measured["gradient_ratio"] = adaptation / norms["task"]
        return measured

    def _domain_accuracy(self) -> float:
        return domains_told_apart(self.task.model, self._feed.inputs, self.data.device, self.config.seed)
