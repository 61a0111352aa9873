"""What of the network trains, how fast, and from when on."""

import math
from dataclasses import dataclass
from typing import Protocol, TypedDict

from torch import nn

from ray_tl.errors import InvalidInput
from ray_tl.models.transfer_model import TransferModel
from ray_tl.registry import Registry


class LRMultipliers(Protocol):
    """Learning rates of the stages and the head, relative to the optimiser's."""

    def multipliers(self, num_stages: int) -> list[float]:
        """One for each stage in order, then the head's: `num_stages + 1` numbers above 0."""
        ...


LR_MULTIPLIERS: Registry[LRMultipliers] = Registry("learning-rate multipliers")


@LR_MULTIPLIERS.register("uniform", ranges={"head": {"log_uniform": [1, 20]}})
@dataclass(frozen=True, kw_only=True)
class Uniform:
    """The same for every stage.

    Attributes:
        head: The head's, > 0; 10 is usual with pretrained weights.
    """

    head: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("uniform.head", self.head)

    def multipliers(self, num_stages: int) -> list[float]:
        return [1.0] * num_stages + [self.head]


@LR_MULTIPLIERS.register("layer_decay", ranges={"decay": {"uniform": [0.5, 1.0]}, "head": {"log_uniform": [1, 20]}})
@dataclass(frozen=True, kw_only=True)
class LayerDecay:
    """Smaller by a constant factor with each stage away from the head.

    Howard and Ruder, "Universal Language Model Fine-tuning", 2018, https://arxiv.org/abs/1801.06146, section 3.2:
    stage i of n, counted from 0, learns at decay^(n - i).

    Attributes:
        decay: In (0, 1].
        head: The head's, > 0.
    """

    decay: float
    head: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("layer_decay.head", self.head)
        if not 0 < self.decay <= 1:
            raise InvalidInput(f"layer_decay.decay={self.decay} is out of range; choose above 0, up to 1.")

    def multipliers(self, num_stages: int) -> list[float]:
        return [self.decay ** (num_stages - stage) for stage in range(num_stages)] + [self.head]


@LR_MULTIPLIERS.register("per_stage", ranges={"head": {"log_uniform": [1, 20]}})
class PerStage:
    """One stated for each stage.

    Args:
        multipliers: From the input on, each > 0; as many as the backbone has stages.
        head: The head's, > 0.
    """

    def __init__(self, *, multipliers: list[float], head: float = 1.0) -> None:
        for number, multiplier in enumerate(multipliers):
            _require_positive(f"per_stage.multipliers[{number}]", multiplier)
        _require_positive("per_stage.head", head)
        self._stated = [*multipliers, head]

    def multipliers(self, num_stages: int) -> list[float]:
        """As stated.

        Raises:
            InvalidInput: If their number is not that of the stages.
        """
        if len(self._stated) != num_stages + 1:
            raise InvalidInput(
                f"per_stage.multipliers has {len(self._stated) - 1} values, "
                f"but the backbone has {num_stages} stages; give {num_stages}."
            )
        return list(self._stated)


class UnfreezingSchedule(Protocol):
    """Freeze depth, and what becomes of the learning rate with it, over the course of a trial."""

    def depth_at(self, progress: float, freeze_depth: int, num_stages: int) -> int:
        """Stages frozen at `progress`; never rises, and ends at `freeze_depth`.

        Args:
            progress: In [0, 1] of full fidelity.
            freeze_depth: The trial's.
            num_stages: Of the backbone, up to the last one that ever trains.
        """
        ...

    def rate_at(self, progress: float) -> float:
        """What all learning rates are multiplied by, > 0; an epoch has that of its beginning, as it has its depth."""
        return 1.0


UNFREEZING: Registry[UnfreezingSchedule] = Registry("unfreezing schedule")


@UNFREEZING.register("fixed")
class Fixed(UnfreezingSchedule):
    """The trial's freeze depth from start to end."""

    def depth_at(self, progress: float, freeze_depth: int, num_stages: int) -> int:
        return freeze_depth


@UNFREEZING.register("gradual", ranges={"until": {"uniform": [0.2, 0.8]}})
@dataclass(frozen=True, kw_only=True)
class Gradual(UnfreezingSchedule):
    """The head alone first, then one stage more after each equal part of the progress.

    Howard and Ruder, "Universal Language Model Fine-tuning", 2018, https://arxiv.org/abs/1801.06146, section 3.3.

    Attributes:
        until: Progress at which the trial's freeze depth is reached, in (0, 1].
    """

    until: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise InvalidInput(f"gradual.until={self.until} is out of range; choose above 0, up to 1.")

    def depth_at(self, progress: float, freeze_depth: int, num_stages: int) -> int:
        steps = num_stages - freeze_depth
        return num_stages - math.floor(steps * min(1.0, progress / self.until))


@UNFREEZING.register(
    "probe_then_fine_tune",
    ranges={"until": {"uniform": [0.2, 0.6]}, "rate_after": {"log_uniform": [0.01, 1]}},
)
@dataclass(frozen=True, kw_only=True)
class ProbeThenFineTune(UnfreezingSchedule):
    """The head alone first, then at once everything that the trial trains.

    Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", 2022,
    https://arxiv.org/abs/2202.10054, section 3.3 (LP-FT). Departure: optimiser and schedule go on where they were.

    Attributes:
        until: Progress at which the second stage begins, in (0, 1).
        rate_after: All learning rates of the second stage relative to the first, > 0; below 1 for a fine-tune that
            stays close to the pretrained weights.
    """

    until: float = 0.3
    rate_after: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.until < 1:
            raise InvalidInput(f"probe_then_fine_tune.until={self.until} is out of range; choose above 0, below 1.")
        _require_positive("probe_then_fine_tune.rate_after", self.rate_after)

    def depth_at(self, progress: float, freeze_depth: int, num_stages: int) -> int:
        return num_stages if progress < self.until else freeze_depth

    def rate_at(self, progress: float) -> float:
        return 1.0 if progress < self.until else self.rate_after


def stages_at(schedule: UnfreezingSchedule, progress: float, stages: range, num_stages: int) -> range:
    """The stages that train at `progress`.

    Args:
        schedule: Thaws from the head down.
        progress: In [0, 1] of full fidelity.
        stages: Those that ever train.
        num_stages: Of the backbone; while nothing but the head trains, all of them are the frozen prefix.
    """
    depth = schedule.depth_at(progress, stages.start, stages.stop)
    return range(depth, stages.stop) if depth < stages.stop else range(num_stages, num_stages)


class ParameterGroup(TypedDict):
    """A group for a torch optimiser, with its stage's name."""

    name: str
    params: list[nn.Parameter]
    lr: float


def parameter_groups(model: TransferModel, lr: float, multipliers: list[float]) -> list[ParameterGroup]:
    """One group for each stage, then that of taps, adaptor and head; frozen parameters too, which optimisers skip.

    Rates are real `lr` values, because torch's schedulers know nothing else. A group may be empty: a pooling stage.

    Args:
        model: Whose parameters each appear once.
        lr: Learning rate that the multipliers are relative to.
        multipliers: `num_stages + 1` numbers, the head's last.
    """
    return [
        ParameterGroup(name=name, params=list(part.parameters()), lr=lr * multiplier)
        for (name, part), multiplier in zip(named_parts(model), multipliers, strict=True)
    ]


def named_parts(model: TransferModel) -> list[tuple[str, nn.Module]]:
    """The stages by name, then taps, adaptor and head together as `head`: every parameter once."""
    new = nn.ModuleList([model.features, model.adaptor, model.head])
    return [*zip(model.backbone.names, model.backbone.stages, strict=True), ("head", new)]


def _require_positive(field: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InvalidInput(f"{field}={value} is out of range; choose above 0 (to freeze, set freeze_depth).")
