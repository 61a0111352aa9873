"""The one definition of depth: an ordered list of stages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

BLANK_SIDE = 32


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of images scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Entry(nn.Module):
    """What stands before the first stage: from rows as a domain holds them to what the stages compute with.

    It learns nothing, and counts as no stage.

    Attributes:
        modality: Of the rows: `images` or `text`.
    """

    modality: str = "images"

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of a domain, [N, ...], to the input of the first stage."""
        raise NotImplementedError

    def suspend(self, activations: Tensor, rows: Tensor) -> Tensor:
        """Activations for these rows of a domain as a cache can hold them: as wide for any batch of the domain."""
        return activations

    def resume(self, activations: Tensor) -> Tensor:
        """Activations as a cache holds them, to what the next stage computes with; the same, mostly."""
        return activations

    def order(self, rows: Tensor) -> Tensor:
        """Numbers of the rows, or of their activations, in an order in which those of a batch cost little together."""
        return torch.arange(len(rows))

    def blank(self) -> Tensor:
        """One small row of a domain, to learn shapes from."""
        raise NotImplementedError


class ImageEntry(Entry):
    """uint8 in 0..255 or float in 0..1, [N, C, H, W], to normalised floats.

    Args:
        normalisation: What the first stage expects.
        blank_side: Of a blank image, in pixels; as large as the network needs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, normalisation: Normalisation, blank_side: int = BLANK_SIDE) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.blank_side = blank_side
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        scaled = rows.to(self.mean.dtype) / 255 if rows.dtype == torch.uint8 else rows
        return ((scaled - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def blank(self) -> Tensor:
        return torch.zeros(1, len(self.normalisation.mean), self.blank_side, self.blank_side)

    def extra_repr(self) -> str:
        return repr(self.normalisation)


class StagedBackbone(nn.Module):
    """A backbone as ordered stages, the last of which gives pooled features [N, D].

    Freezing, learning-rate multipliers, unfreezing and the cut of a cache all count in these stages:
    `f(x)` equals `f(f(x, stop=k), start=k)` at every depth k.

    Frozen stages stay in evaluation mode whatever `train()` says, so that their normalisation statistics don't move.

    Args:
        stages: In the order of the forward pass; together they hold every parameter.
        names: One for each stage, for tables.
        feature_dim: D.
        entry: From rows of a domain to the input of the first stage.
        architecture: As JSON values, what must be known to build the network again where the folder or hub that it came
            from is absent; `None` where name and parameters say it all.

    Attributes:
        embed_texts: Texts to [N, D]: the product of one with a normalised feature is the logit that the text describes
            the row. `None` where the network knows no words.
        stage_sizes: Number of parameters of each stage as it was built; a pooling stage has none.
        trained: The stages that train now.
    """

    embed_texts: Callable[[Sequence[str]], Tensor] | None = None

    def __init__(
        self,
        stages: Sequence[nn.Module],
        names: Sequence[str],
        feature_dim: int,
        entry: Entry,
        architecture: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.names = tuple(names)
        self.feature_dim = feature_dim
        self.entry = entry
        self.stage_sizes = tuple(sum(value.numel() for value in stage.parameters()) for stage in self.stages)
        self.architecture = architecture
        self.trained = range(len(self.stages))
        self._kept: tuple[nn.Parameter, ...] = ()
        assert len(self.names) == len(self.stages)

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    def forward(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages `start` to `stop` (exclusive); what `entry` gives in, features [N, D] out."""
        for stage in self.stages[start:stop]:
            x = stage(x)
        return x

    def freeze(self, depth: int, stop: int | None = None) -> None:
        """Unfreeze stages [depth, stop) and freeze the others; `None` for all behind `depth`."""
        self.trained = range(depth, self.num_stages if stop is None else stop)
        assert 0 <= self.trained.start <= self.trained.stop <= self.num_stages
        for number, stage in enumerate(self.stages):
            stage.requires_grad_(number in self.trained)
        self.keep(self._kept)
        self.train(self.training)

    @property
    def kept(self) -> tuple[nn.Parameter, ...]:
        """Parameters that never train, whatever `freeze` says."""
        return self._kept

    def keep(self, parameters: Sequence[nn.Parameter]) -> None:
        """Never train these, whatever `freeze` says."""
        self._kept = tuple(parameters)
        for value in self._kept:
            value.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for number, stage in enumerate(self.stages):
            if number not in self.trained:
                stage.eval()
        return self
