"""Stages that train by a few new weights alone: what the backbone knows stays isolated from what it learns."""

import math
import re
import warnings
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.adaptors import JointChannelDropout
from ray_tl.models.features import stage_shapes
from ray_tl.models.stages import StagedBackbone
from ray_tl.registry import Registry

ALL_WEIGHTS = Component(name="none")


class ParameterEfficient(Protocol):
    """What is put into the stages of a backbone so that their own weights can stay.

    Attributes:
        merges: Whether `merge_adapters` leaves the network as it was before `apply`, but for other weights.
    """

    merges: bool

    def apply(self, backbone: StagedBackbone, trained: range) -> None:
        """Give the stages that train new weights, and never train others; the outputs stay as they are.

        A stage without weights gets none: depths that are counted in stages with weights mean the same as before.

        Raises:
            InvalidInput: If there is nothing that new weights could be given to.
        """


PARAMETER_EFFICIENT: Registry[ParameterEfficient | None] = Registry("parameter-efficient tuning")


@PARAMETER_EFFICIENT.register("none")
def all_weights() -> None:
    """The stages that train do so by all their weights."""
    return


@PARAMETER_EFFICIENT.register(
    "lora",
    ranges={"rank": {"choice": [4, 8, 16]}, "alpha": {"choice": [8.0, 16.0, 32.0]}, "dropout": {"uniform": [0, 0.2]}},
)
@dataclass(frozen=True, kw_only=True)
class Lora:
    """LoRA: each linear layer and convolution of the stages that train gets an update of low rank, by `peft`.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2022, https://arxiv.org/abs/2106.09685, eq. 3:
    h = W x + alpha / rank B A x, with B = 0 at the start. Grouped and dilated convolutions stay as they are, because
    `peft` can't merge them, and so does what is inside torch's own attention; statistics of normalisation follow the
    data as ever. The update is added to the weights when the trial is promoted. Departure: dropout is the same at all
    positions of a row, whose number may differ between workers.

    Attributes:
        rank: Of A and B, at least 1.
        alpha: Weight of the update times the rank, above 0.
        dropout: Share of the channels that are hidden from A in training, in [0, 1).
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    merges = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InvalidInput(f"lora.rank={self.rank} is too low; choose 1 or more, 8 is usual.")
        if not 0 < self.alpha < math.inf:
            raise InvalidInput(f"lora.alpha={self.alpha} must be a finite number above 0; twice the rank is usual.")
        if not 0 <= self.dropout < 1:
            raise InvalidInput(f"lora.dropout={self.dropout} is out of range; choose 0 up to, not including, 1.")

    def apply(self, backbone: StagedBackbone, trained: range) -> None:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds, which a command line must not pay

        names = [name for name, layer in _inside(backbone, trained) if _takes_update(layer)]
        if not names:
            raise InvalidInput(
                "parameter_efficient=lora finds no linear layer or convolution in the stages that train; lower "
                "freeze_depth, or choose parameter_efficient: none."
            )
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules="|".join(re.escape(name) for name in names),
        )
        with warnings.catch_warnings(action="ignore"):  # that GPT-2 stores its weights transposed
            inject_adapter_in_model(config, backbone.stages)
        for name, layer in _inside(backbone, trained):
            if name.endswith("lora_dropout"):
                assert isinstance(layer, nn.ModuleDict)
                layer["default"] = JointChannelDropout(self.dropout)
        backbone.keep([value for name, value in backbone.stages.named_parameters() if ".lora_" not in name])


@PARAMETER_EFFICIENT.register("bottleneck_adapter", ranges={"width": {"choice": [8, 16, 32, 64]}})
@dataclass(frozen=True, kw_only=True)
class BottleneckAdapters:
    """Bottleneck adapters: behind each stage that trains a narrow layer with a shortcut, which alone learns.

    Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", 2019, https://arxiv.org/abs/1902.00751, sec. 2.1.
    Departures: behind whole stages, as in Rebuffi et al., "Learning multiple visual domains with residual adapters",
    2017, https://arxiv.org/abs/1705.08045, and not twice inside each layer; parameters of normalisation stay as they
    are. `peft` has none. They can't be merged, so they are part of the network that is served.

    Attributes:
        width: Of the narrow layer, at least 1.
    """

    width: int = 16
    merges = False

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InvalidInput(f"bottleneck_adapter.width={self.width} is too narrow; choose 1 or more, 16 is usual.")

    def apply(self, backbone: StagedBackbone, trained: range) -> None:
        learned = [number for number in trained if any(True for _ in backbone.stages[number].parameters())]
        if not learned:
            raise InvalidInput(
                "parameter_efficient=bottleneck_adapter finds no stage that trains; lower freeze_depth, or choose "
                "parameter_efficient: none."
            )
        backbone.keep(list(backbone.stages.parameters()))
        shapes = stage_shapes(backbone)
        for number in learned:
            adapter = BottleneckAdapter(shapes[number], self.width)
            backbone.stages[number] = nn.Sequential(backbone.stages[number], adapter)


class BottleneckAdapter(nn.Module):
    """x + up(gelu(down(x))), the same as x at the start, when `up` is 0; at every position by itself.

    Departure from Houlsby et al., 2019: no biases, so that the padding of texts, which is 0, stays so.

    Args:
        shape: Of one row of outputs: [1, D], [1, T, D] of tokens or [1, C, H, W].
        width: Of the narrow layer.
    """

    def __init__(self, shape: torch.Size, width: int) -> None:
        super().__init__()
        is_map = len(shape) == 4
        outer = shape[1] if is_map else shape[-1]
        self.down = nn.Conv2d(outer, width, 1, bias=False) if is_map else nn.Linear(outer, width, bias=False)
        self.up = nn.Conv2d(width, outer, 1, bias=False) if is_map else nn.Linear(width, outer, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        adapted: Tensor = x + self.up(nn.functional.gelu(self.down(x)))
        return adapted


def merge_adapters(module: nn.Module) -> None:
    """Put plain layers, with their update added to the weights, in the place of all that have one of `Lora`."""
    for name, child in module.named_children():
        if isinstance(child, _Updated):
            child.merge(safe_merge=True)
            setattr(module, name, child.get_base_layer())
        else:
            merge_adapters(child)


@runtime_checkable
class _Updated(Protocol):
    """A layer with an update, as `peft` has it; whoever serves a plain network need not have `peft`."""

    def merge(self, safe_merge: bool) -> None: ...

    def get_base_layer(self) -> nn.Module: ...


def left_after_merge(component: Component) -> Component:
    """What of the choice is still in a network after `merge_adapters`."""
    chosen = PARAMETER_EFFICIENT.create(component.name, component.params)
    return ALL_WEIGHTS if chosen is None or chosen.merges else component


def _inside(backbone: StagedBackbone, trained: range) -> list[tuple[str, nn.Module]]:
    """Name and module of everything in these stages."""
    named = [(name, part) for name, part in backbone.stages.named_modules() if name]
    return [(name, part) for name, part in named if int(name.split(".")[0]) in trained]


def _takes_update(layer: nn.Module) -> bool:
    """Whether `peft` computes and merges an update of this layer; subclasses may compute something else."""
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return type(layer) is nn.Conv2d and plain
    return type(layer) is nn.Linear or type(layer).__name__ == "Conv1D"  # of transformers: GPT-2's linear layer
