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

from ray_tl.adaptation import AdaptationMethod, DomainOutputs
from ray_tl.collectives import world_size
from ray_tl.config import TrialConfig
from ray_tl.errors import NotFinite
from ray_tl.models.domain_norm import domain_of
from ray_tl.models.fine_tuning import UNFREEZING, stages_at
from ray_tl.models.transfer_model import stages_of
from ray_tl.randomness import derive_seed, seed_torch
from ray_tl.selection import SelectionRule
from ray_tl.training.averaging import AVERAGING, Weights, copies, renew_statistics
from ray_tl.training.batches import PairedBatches, Step
from ray_tl.training.building import build_optimizer, build_task
from ray_tl.training.data import TrialData
from ray_tl.training.doctor import findings, gradient_norms
from ray_tl.training.ending import Ending
from ray_tl.training.evaluation import predict_outputs
from ray_tl.training.examination import (
    Evidence,
    confidence_gap,
    gap_of_domains,
    gather_evidence,
    histogram_drift,
    scores_of,
    source_recalls,
)
from ray_tl.training.feed import Feed
from ray_tl.training.files import State
from ray_tl.training.final_evidence import look_closer
from ray_tl.training.gradients import GRADIENT_MASKING
from ray_tl.training.layer_plan import FirstStep, layer_plan
from ray_tl.training.multi_task import AUXILIARY
from ray_tl.training.network import PREFIX
from ray_tl.training.optimisation import LR_SCHEDULES, OPTIMIZERS, set_learning_rates
from ray_tl.training.precision import Precision, synchronised
from ray_tl.training.pulse import beat
from ray_tl.training.regularisers import REGULARISER
from ray_tl.training.report import BEFORE, EpochReport, before
from ray_tl.training.task import StepLosses
from ray_tl.validation.evidence import FinalEvidence


class TrialRun:
    """State of a trial between epochs.

    Args:
        config: The whole trial.
        data: Domains of the study.
        rule: Says what is looked at in each epoch, and what is maximised.
        method: In the place of the configuration's.
    """

    def __init__(
        self, config: TrialConfig, data: TrialData, rule: SelectionRule, method: AdaptationMethod | None = None
    ) -> None:
        self.config, self.data, self.rule = config, data, rule
        self.first_epoch = 0
        self.task = build_task(config, data, method)
        self._unfreezing = UNFREEZING.create(config.unfreezing.name, config.unfreezing.params)
        self._schedule = LR_SCHEDULES.create(config.lr_schedule.name, config.lr_schedule.params)
        self._choice = OPTIMIZERS.create(config.optimizer.name, config.optimizer.params)
        self._optimizer, self._base_rates = build_optimizer(config, self.task, self._choice)
        self._masking = GRADIENT_MASKING.create(config.gradient_masking.name, config.gradient_masking.params)
        self._lr = self._choice.lr
        self._averaging = AVERAGING.create(config.averaging.name, config.averaging.params)
        self._averaging.begin(self.task.model)
        self._precision = Precision(config.precision, data.device)
        self.task.autocast = self._precision.autocast
        self._ending = Ending(config, rule, self._averaging.num_epochs)
        self._evaluated: Weights | None = None
        self._feed = Feed(config, data)
        self.plan = layer_plan(config, self.task.model)
        self._first_step: FirstStep | None = None
        self._stages: range | None = None
        self._rate = 1.0
        self._gap = 0.0
        self._progress: float | None = None
        self._gap_before: dict[str, float] | None = None
        self._step_module: nn.Module = self.task
        self.evidence: Evidence = {}
        self.final_evidence: FinalEvidence | None = None

    def epoch(self, epoch: int) -> EpochReport:
        """Train epoch number `epoch` (from 0) and evaluate; raises `NotFinite` on a loss that is not."""
        start = time.perf_counter()
        self._enter_phase(epoch / self.config.epochs)
        if self._gap_before is None:
            self._gap_before = before(self._domain_gap())
        self._begin_epoch(epoch / self.config.epochs)
        losses, weights = self._train(epoch)
        own = self._take_average(epoch)
        scores, histogram = self._evaluate()
        self._ending.remember(epoch + 1, scores, histogram, self.task.model)
        if has_ended := self._ending.has_come(epoch + 1):
            scores, histogram = self._end(epoch, scores, histogram)
            self.final_evidence = look_closer(
                self.task.model, self._feed.evaluated[0], self.data, self.evidence["target"]
            )
        health = self._examine(epoch, histogram)
        report = EpochReport(
            epoch=self.config.epochs if has_ended else epoch + 1,
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
            source_recalls=source_recalls(self.evidence, self.data),
        )
        method, progress = self.task.method, (epoch + 1) / self.config.epochs
        found = findings(report, progress, method.aligns_features, method.idle_losses(progress))
        self._give_back(own)
        return replace(report, findings=[*self._feed.notes(), *self._idle_notes(), *self._ending.notes, *found])

    def state(self, report: EpochReport) -> State:
        """All that `restore` needs; randomness and schedules are functions of seed and progress.

        Of a trial that has ended, the network: what a next epoch would need is several times as large.
        """
        averaged = {f"{PREFIX}{name}": value for name, value in (self._evaluated or {}).items()}
        task = {**self.task.state_dict(), **averaged}  # the evaluated network; what trains on is kept beside it
        state: State = {"task": task, "report": asdict(report)}
        if report.epoch == self.config.epochs:
            return state
        state |= {"optimizer": self._optimizer.state_dict(), "precision": self._precision.state()}
        state |= {"progress": self._progress}
        state |= {"averaging": self._averaging.state_dict(), "ending": self._ending.state()}
        return state | ({"training": self.task.model.state_dict()} if averaged else {})

    def restore(self, state: State | None) -> EpochReport | None:
        """Take up a saved state; gives the report of its last epoch."""
        if state is None:
            return None
        self.task.load_state_dict(state["task"])
        if "training" in state:
            self.task.model.load_state_dict(state["training"])
        if "optimizer" in state:
            self._optimizer.load_state_dict(state["optimizer"])
        self._precision.restore(state.get("precision", {}))
        self._averaging.load_state_dict(state.get("averaging", {}))
        self._ending.restore(state.get("ending", {}))
        self._progress = state.get("progress")
        report = EpochReport(**state["report"])
        self._gap = report.gap
        self._gap_before = {name: value for name, value in report.health.items() if name.endswith(BEFORE)}
        return report

    def _idle_notes(self) -> list[str]:
        """What the configuration asks for and this trial has no use for."""
        if not self._averaging.needs_fine_tuning or stages_of(self.config, self.task.model):
            return []
        return [f"averaging={self.config.averaging.name!r} is as none here: no stage of the backbone trains."]

    @property
    def _batches(self) -> PairedBatches:
        return self._feed.batches

    def _enter_phase(self, progress: float) -> None:
        """Unfreeze what this epoch trains, and wrap in DDP anew: DDP does not see a parameter unfrozen later."""
        self._feed.go_to(progress)
        model = self.task.model
        self._rate = self._unfreezing.rate_at(progress)
        stages = stages_at(self._unfreezing, progress, stages_of(self.config, model), model.backbone.num_stages)
        if stages == self._stages:
            return
        if stages and not self._stages:
            self._averaging.begin_fine_tuning(model, progress)
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
        seed_torch(derive_seed(self.config.seed, "dropout", epoch))
        self.task.train()
        totals: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        steps = self._batches.steps_per_epoch
        for index, parts in enumerate(self._batches.steps(epoch)):
            beat()
            progress = (epoch * steps + index) / (steps * self.config.epochs)
            if self._begins_anew(epoch * steps + index, steps * self.config.epochs):
                self._optimizer, _ = build_optimizer(self.config, self.task, self._choice)
            losses, weights = self._step(parts, progress, epoch, index)
            for name, loss in losses.items():
                totals[name] = totals.get(name, torch.zeros((), device=loss.device)) + loss.detach()
        return self._mean_over_ranks(totals, steps), weights

    def _begins_anew(self, number: int, num_steps: int) -> bool:
        """Whether the method asks for a new optimiser from this step on; the epoch before may have had fewer steps."""
        before = (number - 1) / num_steps if self._progress is None else self._progress
        self._progress = number / num_steps
        return number > 0 and before < self.task.method.restart <= self._progress

    def _step(
        self, parts: Sequence[Step], progress: float, epoch: int, index: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """One step of the optimiser; gives the losses, means over its micro-batches, and their weights."""
        model, method = self.task.model, self.task.method
        factor = self._schedule(progress, self._ending.history) * method.rate_at(progress)
        self._lr = self._choice.lr * self._rate * factor
        set_learning_rates(self._optimizer, self._base_rates, self._rate * factor)
        self._optimizer.zero_grad(set_to_none=True)
        losses, weights = self._backward(parts, progress, epoch, index)
        self._precision.unscale(self._optimizer)
        method.before_step(model, progress)
        if self.config.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.task.parameters(), self.config.max_gradient_norm)
        has_stepped = self._precision.step(self._optimizer)
        if has_stepped and self._first_step is not None:
            self._first_step.check(self._optimizer, factor)
            self._first_step = None
        method.after_step(model, progress)
        self._averaging.after_step(model)
        return losses, weights

    def _backward(
        self, parts: Sequence[Step], progress: float, epoch: int, index: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Gradients of the mean over micro-batches, which are joined over the ranks once."""
        losses: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for number, part in enumerate(parts, start=1):
            inputs = self._step_inputs(part, progress, epoch, index)
            with synchronised(self._step_module, number == len(parts)):
                found: StepLosses = self._step_module(*inputs)
                self._masking.backward(self.task, found.times(self._precision.scale() / len(parts)))
            losses = {name: losses.get(name, 0) + loss.detach() / len(parts) for name, loss in found.named.items()}
            weights = found.weights
        return losses, weights

    def _step_inputs(self, step: Step, progress: float, epoch: int, index: int) -> tuple[Any, ...]:
        """The arguments of `AdaptationTask.forward`, on the device."""
        views, rows, labels, few = self._feed.views(step, self.task.method, progress, epoch, index)
        other, adapts = self._feed.auxiliary_labels(step), self._feed.leg.adapts
        start, class_weights = self._feed.inputs.start, self._feed.class_weights
        return views, rows, labels, start, progress, self._gap, few, other, adapts, class_weights

    def _mean_over_ranks(self, totals: dict[str, Tensor], steps: int) -> dict[str, float]:
        means = torch.stack(list(totals.values())) / steps
        if world_size() > 1:
            dist.all_reduce(means)
            means /= world_size()
        values = dict(zip(totals, means.tolist(), strict=True))
        for name, value in values.items():
            if not math.isfinite(value):
                raise NotFinite(f"loss {name!r} is {value}; a lower learning rate or loss weight keeps it finite.")
        return values

    def _evaluate(self) -> tuple[dict[str, float], list[float]]:
        model, inputs = self.task.model, self._feed.inputs
        if self.task.method.sets_statistics:
            self.task.method.before_evaluation(model, self._feed.target_batches(), inputs.start)
        return self._gathered()

    def _gathered(self) -> tuple[dict[str, float], list[float]]:
        """Scores and histogram of the network as it is."""
        self.evidence = gather_evidence(self.task.model, self._feed.evaluated, self.data.device)
        self._gap = confidence_gap(self.evidence)
        return scores_of(self.evidence, self.data, self.rule)

    def _take_average(self, epoch: int) -> Weights | None:
        """Put averaged weights in the place of those that train; gives the latter, if there is an average."""
        model, progress = self.task.model, (epoch + 1) / self.config.epochs
        self._averaging.after_epoch(model, progress)
        averaged = self._averaging.weights()
        if averaged is None:
            return None
        own = copies(model.state_dict())
        self._put(averaged, epoch)
        return own

    def _give_back(self, own: Weights | None) -> None:
        """Train on with one's own weights, and remember those that were evaluated."""
        self._evaluated = None if own is None else copies(self.task.model.state_dict())
        if own is not None:
            self.task.model.load_state_dict(own)

    def _put(self, weights: Weights, epoch: int) -> None:
        """Make the network one of averaged weights."""
        model, method = self.task.model, self.task.method
        model.load_state_dict(weights)
        if self._averaging.renews_statistics:
            batches = self._feed.joined_batches(method, epoch / self.config.epochs, epoch)
            renew_statistics(model, batches, self._feed.inputs.start)

    def _end(
        self, epoch: int, scores: dict[str, float], histogram: list[float]
    ) -> tuple[dict[str, float], list[float]]:
        """Make the network what the trial ends as; gives its scores and histogram."""

        def judge(weights: Weights) -> float:
            self._put(weights, epoch)
            return self._ending.objective(*self._evaluate())

        end = self._ending.choose(epoch + 1, judge)
        if end is None:
            return scores, histogram
        if end.is_mixed:
            self._put(end.weights, epoch)
            return self._evaluate()
        self.task.model.load_state_dict(end.weights)
        return self._gathered()

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
            **self._domain_gap(),
            **(self._gap_before or {}),
            "histogram_drift": histogram_drift(histogram, self.data),
            **self._masking.figures(),
        }
        others = [norm for name, norm in norms.items() if name not in ("task", AUXILIARY, REGULARISER)]
        adaptation = math.hypot(*others)
        if others and norms["task"] > 0 and math.isfinite(adaptation / norms["task"]):
            measured["gradient_ratio"] = adaptation / norms["task"]
        return measured

    def _domain_gap(self) -> dict[str, float]:
        return gap_of_domains(self.task.model, self._feed.evaluated[0], self.data.device, self.config.seed)
