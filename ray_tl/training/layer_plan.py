"""Which layer trains, how fast and from when on: said before a trial, and checked in it."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.config import TrialConfig
from ray_tl.errors import TrialFailed
from ray_tl.models.fine_tuning import LR_MULTIPLIERS, UNFREEZING, named_parts, stages_at
from ray_tl.models.transfer_model import TransferModel, network_of, stages_of
from ray_tl.search_space import DataOptions
from ray_tl.training.network import built, expected_context
from ray_tl.training.optimisation import OPTIMIZERS

SURE_STEP = 100  # so many roundings of a weight: a step of that size must show


@dataclass(frozen=True)
class Phase:
    """Epochs in which the same layers train at the same rates, but for the schedule.

    Attributes:
        from_epoch: Its first, counted from 1.
        from_progress: In [0, 1] of full fidelity.
    """

    from_epoch: int
    from_progress: float


@dataclass(frozen=True)
class PlannedLayer:
    """A stage of the backbone; or the head, with taps and adaptor.

    Attributes:
        num_parameters: In all, learned or not.
        num_learned: Of those, what learns where the layer trains; with new weights in it (LoRA, adapters) those alone.
        rates: Learning rate in each phase, before the schedule; 0 where the layer is frozen.
    """

    name: str
    num_parameters: int
    num_learned: int
    rates: tuple[float, ...]

    @property
    def trains(self) -> bool:
        """Whether it ever does; a layer without parameters that learn has nothing to train."""
        return self.num_learned > 0 and any(self.rates)

    @property
    def first_phase(self) -> int | None:
        """Number of the phase in which it begins to train; `None` if it never does."""
        return next((number for number, rate in enumerate(self.rates) if rate > 0), None) if self.trains else None


@dataclass(frozen=True)
class Restart:
    """A second optimisation, which the adaptation method begins.

    Attributes:
        from_progress: In (0, 1).
        rate: Factor of all learning rates from then on.
    """

    from_progress: float
    rate: float


@dataclass(frozen=True)
class LayerPlan:
    """What trains in a trial.

    Attributes:
        config: The whole trial.
        phases: In their order; the first begins at progress 0.
        layers: The stages from the input on, then the head.
        restart: Of the adaptation method; the layers' rates are those before it. `None` if it has none.
    """

    config: TrialConfig
    phases: tuple[Phase, ...]
    layers: tuple[PlannedLayer, ...]
    restart: Restart | None = None

    def phase_at(self, progress: float) -> int:
        """Number of the phase, counted from 0."""
        return max(number for number, phase in enumerate(self.phases) if phase.from_progress <= progress)

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "config": self.config.model_dump(mode="json"),
            "phases": [vars(phase) for phase in self.phases],
            "layers": [self._row(layer) for layer in self.layers],
            "restart": self.restart and vars(self.restart),
        }

    def _row(self, layer: PlannedLayer) -> dict[str, object]:
        first = None if layer.first_phase is None else self.phases[layer.first_phase]
        return {
            "layer": layer.name,
            "parameters": layer.num_parameters,
            "learned_parameters": layer.num_learned if layer.trains else 0,
            "trains": layer.trains,
            "learning_rates": list(layer.rates),
            "from_epoch": first and first.from_epoch,
            "from_progress": None if first is None else first.from_progress,
        }


def layer_plan(config: TrialConfig, model: TransferModel) -> LayerPlan:
    """The plan of a trial for the network that it builds.

    Raises:
        InvalidInput: If freezing or multipliers do not fit the backbone, or a parameter is out of range.
    """
    if is_closed_form(config.method.name):  # solves for the head, and trains nothing
        frozen = [PlannedLayer(name, _size(part), 0, (0.0,)) for name, part in named_parts(model)]
        return LayerPlan(config, (Phase(1, 0.0),), tuple(frozen))
    num_stages = model.backbone.num_stages
    schedule = UNFREEZING.create(config.unfreezing.name, config.unfreezing.params)
    choice = OPTIMIZERS.create(config.optimizer.name, config.optimizer.params)
    multipliers = LR_MULTIPLIERS.create(config.lr_multipliers.name, config.lr_multipliers.params)
    rates = [choice.lr * multiplier for multiplier in multipliers.multipliers(num_stages)]
    stages = stages_of(config, model)
    phases: list[Phase] = []
    settings: list[tuple[range, float]] = []
    for epoch in range(config.epochs):
        progress = epoch / config.epochs
        setting = stages_at(schedule, progress, stages, num_stages), schedule.rate_at(progress)
        if not settings or setting != settings[-1]:
            settings.append(setting)
            phases.append(Phase(epoch + 1, progress))
    kept = {id(value) for value in model.backbone.kept}
    layers = [
        PlannedLayer(
            name,
            _size(part),
            _size(part, kept),
            tuple(rate * lr if number in trained or number == num_stages else 0.0 for trained, rate in settings),
        )
        for number, ((name, part), lr) in enumerate(zip(named_parts(model), rates, strict=True))
    ]
    return LayerPlan(config, tuple(phases), tuple(layers), _restart(config))


def _restart(config: TrialConfig) -> Restart | None:
    context = MethodContext(2, 2, num_source=2, num_target=2, num_target_labelled=2)  # nothing of it matters here
    with torch.random.fork_rng(devices=[]):  # its weights are thrown away, and must not change those of anybody else
        method = METHODS.create(config.method.name, config.method.params, context)
    return Restart(method.restart, method.restart_rate) if method.restart > 0 else None


def plan_of(config: TrialConfig, num_classes: int, options: DataOptions) -> LayerPlan:
    """The plan of a trial; builds its network without weights, on a device that has shapes alone.

    Args:
        config: The whole trial.
        num_classes: C.
        options: Of the data: channels and side of the images, or the tokenizer of the texts.

    Raises:
        InvalidInput: As `layer_plan` and `network_of`.
    """
    with torch.device("meta"):
        return layer_plan(config, network_of(built(config), num_classes, expected_context(options)))


class FirstStep:
    """The network before the first step of a phase, to see that what moves then is what the plan says.

    Args:
        model: Copied, for one step.
        plan: Of the trial.
        phase: Number of the phase.
    """

    def __init__(self, model: TransferModel, plan: LayerPlan, phase: int) -> None:
        self._plan, self._phase = plan, phase
        self._parts = named_parts(model)
        self._before = [_copies(part) for _, part in self._parts]

    def check(self, optimizer: Optimizer, factor: float) -> None:
        """Compare with what the step has made of it; gradients must still be there.

        Args:
            optimizer: Which has stepped once.
            factor: Of the schedule, in this step.

        Raises:
            TrialFailed: If a frozen parameter or statistic moved, one that trains did not in spite of its gradient, or
                a learning rate is another than planned: an error of ours, never of a configuration.
        """
        rates = {id(value): group["lr"] for group in optimizer.param_groups for value in group["params"]}
        wrong = [
            f"{name}.{key} {problem}"
            for (name, part), layer, before in zip(self._parts, self._plan.layers, self._before, strict=True)
            for key, problem in _problems(part, before, layer.rates[self._phase] * factor, rates)
        ]
        if wrong:
            epoch = self._plan.phases[self._phase].from_epoch
            raise TrialFailed(
                f"internal error: in the phase from epoch {epoch} on, {'; '.join(wrong)}. The layer plan (ray-tl plan) "
                "says otherwise; please report this with the configuration of the trial."
            )


def _size(part: nn.Module, without: Collection[int] = ()) -> int:
    """Numbers in its parameters, but for those whose `id` is in `without`."""
    return sum(value.numel() for value in part.parameters() if id(value) not in without)


def _copies(part: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in [*part.named_parameters(), *part.named_buffers()]}


def _problems(
    part: nn.Module, before: dict[str, Tensor], planned: float, rates: dict[int, float]
) -> Sequence[tuple[str, str]]:
    """Name and fault of each tensor of a layer that did not do as planned."""
    parameters = dict(part.named_parameters())
    if planned == 0:
        now = {**parameters, **dict(part.named_buffers())}
        return [(key, "moved though it is frozen") for key, value in now.items() if not _equal(value, before[key])]
    found = []
    for key, value in parameters.items():
        if not value.requires_grad and not _equal(value, before[key]):
            found.append((key, "moved though it is kept as it was"))
        if value.requires_grad and not math.isclose(rates[id(value)], planned, rel_tol=1e-9):
            found.append((key, f"has the learning rate {rates[id(value)]:.3g} instead of {planned:.3g}"))
        if _should_move(value, before[key], planned) and _equal(value, before[key]):
            found.append((key, "did not move in spite of its gradient"))
    return found


def _equal(value: Tensor, before: Tensor) -> bool:
    return torch.equal(value.detach(), before)


def _should_move(value: Tensor, before: Tensor, lr: float) -> bool:
    """Whether its gradient is large enough for a step that rounding can't swallow."""
    if value.grad is None:
        return False
    return bool((lr * value.grad.abs() > SURE_STEP * torch.finfo(value.dtype).eps * before.abs()).any())
