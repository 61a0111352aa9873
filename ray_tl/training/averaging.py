"""Averages of weights over a trial, evaluated and promoted in the place of the last ones."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ray_tl.errors import InvalidInput
from ray_tl.models.domain_norm import Domain, NormByDomain
from ray_tl.models.transfer_model import TransferModel
from ray_tl.registry import Registry

Weights = dict[str, Tensor]


class Averaging(Protocol):
    """How the network that is evaluated comes from those that were trained.

    Attributes:
        num_epochs: So many of the best epochs are kept, to be averaged at the end.
        renews_statistics: Whether running statistics have to be taken anew for the averaged weights.
        needs_fine_tuning: Whether it changes nothing where no stage of the backbone trains.
    """

    needs_fine_tuning: bool = False
    num_epochs: int = 0
    renews_statistics: bool = False

    @property
    def num_copies(self) -> int:
        """Of the network, kept in memory."""
        return self.num_epochs

    def begin(self, model: TransferModel) -> None:
        """Called once, with the network on its device before it trains."""

    def begin_fine_tuning(self, model: TransferModel, progress: float) -> None:
        """Called before stages of the backbone train, at the progress at which the first of them does.

        Once in a trial, and once more where it is resumed after that.
        """

    def after_step(self, model: TransferModel) -> None:
        """Called after each step of the optimiser."""

    def after_epoch(self, model: TransferModel, progress: float) -> None:
        """Called when an epoch has trained, before it is evaluated; progress is that of its end."""

    def weights(self) -> Weights | None:
        """State of the averaged network; `None` while it is the one that trains."""
        return None

    def state_dict(self) -> Weights:
        """All that `load_state_dict` needs."""
        return {}

    def load_state_dict(self, state: Weights) -> None:
        """Take up a saved state."""


AVERAGING: Registry[Averaging] = Registry("weight averaging")


@AVERAGING.register("none")
class NoAveraging(Averaging):
    """The weights after the last step."""


class _Average(Averaging):
    """What `torch.optim.swa_utils.AveragedModel` keeps."""

    def __init__(self, rule: Callable | None, averages_buffers: bool) -> None:
        self._rule, self._averages_buffers = rule, averages_buffers

    def begin(self, model: TransferModel) -> None:
        self._average = AveragedModel(model, multi_avg_fn=self._rule, use_buffers=self._averages_buffers)

    @property
    def num_copies(self) -> int:
        return 1

    def weights(self) -> Weights | None:
        return self._average.module.state_dict() if self._average.n_averaged > 0 else None

    def state_dict(self) -> Weights:
        return self._average.state_dict()

    def load_state_dict(self, state: Weights) -> None:
        self._average.load_state_dict(state)


@AVERAGING.register("ema", ranges={"decay": {"choice": [0.9, 0.99, 0.999]}})
class Ema(_Average):
    """Exponential moving average over steps, of weights and of running statistics.

    Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046, as `torch.optim.swa_utils` has it.

    Args:
        decay: In (0, 1): about 1 / (1 - decay) steps count; fewer than the trial has, or it stays at its beginning.
    """

    def __init__(self, *, decay: float = 0.99) -> None:
        if not 0 < decay < 1:
            raise InvalidInput(f"ema.decay={decay} must be above 0 and below 1; 0.99 is usual.")
        super().__init__(get_ema_multi_avg_fn(decay), averages_buffers=True)

    def after_step(self, model: TransferModel) -> None:
        self._average.update_parameters(model)


@AVERAGING.register("swa", ranges={"start": {"uniform": [0.3, 0.8]}})
class Swa(_Average):
    """Stochastic weight averaging: the mean of the weights at the end of each epoch from `start` on.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018,
    https://arxiv.org/abs/1803.05407, algorithm 1. Running statistics of what trains are taken anew in a pass over the
    epoch's batches. Goes with a rate that stays up: `lr_schedule: constant`.

    Args:
        start: Progress, at least 0 and below 1.
    """

    renews_statistics = True

    def __init__(self, *, start: float = 0.5) -> None:
        if not 0 <= start < 1:
            raise InvalidInput(f"swa.start={start} must be at least 0 and below 1: it is a share of the whole trial.")
        super().__init__(None, averages_buffers=False)
        self.start = start

    def after_epoch(self, model: TransferModel, progress: float) -> None:
        if progress > self.start:
            self._average.update_parameters(model)


@AVERAGING.register("greedy_soup", ranges={"size": {"int": [2, 5]}})
@dataclass(frozen=True, kw_only=True)
class GreedySoup(Averaging):
    """At the end, the mean of those of the best epochs that make it better by the label-free objective.

    Wortsman et al., "Model soups", 2022, https://arxiv.org/abs/2203.05482, algorithm 1, over the epochs of one trial.
    Running statistics of what trains are taken anew for each mixture. Every epoch is reported as it was; the last
    report is that of the soup.

    Attributes:
        size: So many epochs are kept at most, >= 2; each is a copy of the network in the checkpoint.
    """

    size: int = 4

    renews_statistics = True

    def __post_init__(self) -> None:
        if self.size < 2:
            raise InvalidInput(f"greedy_soup.size={self.size} is no mixture; choose 2 or more, 4 is usual.")

    @property
    def num_epochs(self) -> int:  # type: ignore[override]
        return self.size


@AVERAGING.register("wise_ft", ranges={"alpha": {"uniform": [0.2, 0.8]}})
class WiseFt(Averaging):
    """The line between the network before its backbone was fine-tuned and after it, at every epoch.

    Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, https://arxiv.org/abs/2109.01903, eq. 1: what lies
    between is often better under a shift than either end, and hardly worse on the source. Where the head has trained
    alone first (`unfreezing: probe_then_fine_tune`), the line begins at that probe; where it has not, an untrained head
    is no end of a line, and the backbone alone is mixed. Running statistics lie on the line too, as
    the pretrained ones fit the probe: those of new batches fit neither end. Where the head trains alone, there is no
    line, and the trial is as without averaging.

    Args:
        alpha: Share of the fine-tuned weights, in (0, 1).
    """

    needs_fine_tuning = True

    def __init__(self, *, alpha: float = 0.5) -> None:
        if not 0 < alpha < 1:
            raise InvalidInput(f"wise_ft.alpha={alpha} must be above 0 and below 1: the share of fine-tuned weights.")
        self.alpha = alpha
        self._before: Weights = {}
        self._mixed: Weights | None = None

    @property
    def num_copies(self) -> int:
        return 2

    def begin_fine_tuning(self, model: TransferModel, progress: float) -> None:
        if not self._before:
            self._before = copies(model.state_dict() if progress > 0 else model.backbone.state_dict(prefix="backbone."))

    def after_epoch(self, model: TransferModel, progress: float) -> None:
        if self._before:
            self._mixed = {name: self._mix(name, value) for name, value in model.state_dict().items()}

    def weights(self) -> Weights | None:
        return self._mixed

    def state_dict(self) -> Weights:
        return self._before

    def load_state_dict(self, state: Weights) -> None:
        self._before = state

    def _mix(self, name: str, tuned: Tensor) -> Tensor:
        if name not in self._before or not tuned.is_floating_point():
            return tuned
        return torch.lerp(self._before[name].to(tuned), tuned, self.alpha)


@dataclass(frozen=True)
class KeptEpoch:
    """The network as an epoch left it, for the end of the trial.

    Attributes:
        epoch: Counted from 1.
        objective: Label-free, higher is better.
        weights: State of the evaluated network.
    """

    epoch: int
    objective: float
    weights: Weights


def best_epochs(kept: Sequence[KeptEpoch], num_epochs: int) -> list[KeptEpoch]:
    """The best ones, the best first; of equal ones the earlier."""
    return sorted(kept, key=lambda each: (-each.objective, each.epoch))[:num_epochs]


def greedy_soup(kept: Sequence[KeptEpoch], judge: Callable[[Weights], float]) -> list[KeptEpoch]:
    """Those whose mean is the soup: each that does not lower the objective joins, from the best on.

    Args:
        kept: The best first; at least one.
        judge: Objective of the network with such weights; not asked about the first alone, whose own is known.
    """
    soup, best = [kept[0]], kept[0].objective
    for each in kept[1:]:
        mixed = judge(mean_weights([*soup, each]))
        if mixed >= best:
            soup, best = [*soup, each], mixed
    return soup


def mean_weights(kept: Sequence[KeptEpoch]) -> Weights:
    """The mean of every floating-point tensor; counters are those of the first."""
    states = [each.weights for each in kept]
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }


def copies(state: Weights) -> Weights:
    """A state that training does not change."""
    return {name: value.detach().clone() for name, value in state.items()}


def on_cpu(state: Weights) -> Weights:
    """The same away from the device, as a checkpoint holds it."""
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


@torch.no_grad()
def renew_statistics(model: TransferModel, batches: Iterable[tuple[Tensor, Sequence[Domain]]], start: int) -> None:
    """Take the running statistics of all batch normalisation that trains anew, as means over batches.

    As `torch.optim.swa_utils.update_bn`, but frozen stages keep theirs, dropout is off, and on several ranks they are
    those of the joint batches. The model is left in evaluation mode.

    Args:
        model: With its weights averaged.
        batches: Inputs of equally long parts, and the domain of each part.
        start: Stage at which they enter.
    """
    model.train()
    trained = [part for part in model.modules() if part.training]
    norms = [part for part in trained if isinstance(part, _BatchNorm) and part.track_running_stats]
    model.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches, not a moving one
    _set_training([*norms, *(part for part in trained if isinstance(part, NormByDomain))])
    for inputs, domains in batches:
        model(inputs, start, domains)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _set_training(parts: Iterable[nn.Module]) -> None:
    for part in parts:
        part.training = True  # not what is inside: an activation or dropout of timm's batch normalisation
