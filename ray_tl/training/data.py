"""A domain pair as tensors, and the activations of a frozen prefix computed once."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_tl.data.augmentation import AS_IT_IS, ImageView
from ray_tl.data.augmentation.views import unchanged
from ray_tl.data.domains import DomainPair
from ray_tl.models.transfer_model import TransferModel
from ray_tl.randomness import some_rows
from ray_tl.training.evaluation import EVAL_BATCH

CACHE_BYTES = 1 << 30
RECORDED_ROWS = 20_000  # of a domain: an accuracy is known to 0.35 points then
RECORDED_NUMBERS = 20_000_000  # of a domain: 40 MB in half precision
DOMAINS = ("source", "source_holdout", "target", "target_test", "target_labelled", "target_choice", "auxiliary")
EVALUATED = ("source_holdout", "target", "target_test", "target_choice")


def intermediate(number: int) -> str:
    """Name of an intermediate domain among the rows."""
    return f"intermediate_{number}"


class TrialData:
    """Tensors of a domain pair, shared by all trials of a process.

    Args:
        pair: Its arrays are used in place, without a copy.
        device: Where steps run; images and activations stay on the CPU and follow batch by batch.
    """

    def __init__(self, pair: DomainPair, device: torch.device) -> None:
        self.pair = pair
        self.device = device
        self.labels = torch.as_tensor(pair.source.labels.copy())
        other = pair.auxiliary
        self.auxiliary_labels = torch.as_tensor([] if other is None else other.labels.copy(), dtype=torch.int64)
        few = pair.target_labelled
        self.target_labels = None if few is None else torch.as_tensor(few.labels.copy())
        self.rows = {
            name: torch.as_tensor(domain.inputs) for name in DOMAINS if (domain := getattr(pair, name)) is not None
        }
        between = pair.intermediate
        self.rows |= {intermediate(number): torch.as_tensor(each.inputs) for number, each in enumerate(between)}
        self._recorded = {
            name: rows
            for name in EVALUATED
            if name in self.rows and (rows := recorded_rows(name, len(self.rows[name]), pair.num_classes)) is not None
        }
        self.recorded = self._those_recorded(self.rows)
        self.cache = ActivationCache(CACHE_BYTES)

    @property
    def holdout_labels(self) -> NDArray[np.int64]:
        """Of the recorded rows of the hold-out, [N]."""
        labels, rows = self.pair.source_holdout.labels, self._recorded.get("source_holdout")
        return labels if rows is None else labels[rows.numpy()]

    def inputs(self, model: TransferModel, depth: int) -> "Inputs":
        """What enters the network when its first `depth` stages are frozen: activations if they fit, else images.

        Frozen stages behind the first tap are computed at every step, because all taps are needed.
        """
        if depth == 0:
            return Inputs(self.rows, 0)
        return self.cache.inputs(model, min(depth, model.features.max_start), self.rows, self.device)

    def evaluated(self, model: TransferModel, depth: int, views: Sequence[ImageView]) -> "list[Inputs]":
        """As `inputs`, once for each view, of the recorded rows: what frozen stages give for a view is kept, too."""
        if depth == 0:
            return self.recorded_inputs(views)
        rows = {name: rows for name, rows in self.recorded.items() if name in EVALUATED}
        cut = min(depth, model.features.max_start)
        return [
            self._as_it_is(model, depth) if view == AS_IT_IS else self.cache.inputs(model, cut, rows, self.device, view)
            for view in views
        ]

    def recorded_inputs(self, views: Sequence[ImageView]) -> "list[Inputs]":
        """The recorded rows as they enter a whole network, once for each view."""
        return [Inputs(self.recorded, 0, view) for view in views]

    def _as_it_is(self, model: TransferModel, depth: int) -> "Inputs":
        inputs = self.inputs(model, depth)
        return replace(inputs, rows=self._those_recorded(inputs.rows))

    def _those_recorded(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of every domain that is evaluated the recorded rows, of others all; nothing is copied where these are all."""
        return {**rows, **{name: rows[name].index_select(0, some) for name, some in self._recorded.items()}}


def num_recorded(num_rows: int, num_classes: int) -> int:
    """How many rows of a domain are evaluated and recorded at most, so that evidence stays small for any domain."""
    return min(num_rows, RECORDED_ROWS, max(1, RECORDED_NUMBERS // num_classes))


def recorded_rows(domain: str, num_rows: int, num_classes: int) -> Tensor | None:
    """Which rows of a domain are evaluated and recorded, int64, ascending; the same in every study. `None` for all."""
    limit = num_recorded(num_rows, num_classes)
    return None if limit == num_rows else some_rows(num_rows, limit, 0, "recorded", domain).sort().values


@dataclass(frozen=True)
class Inputs:
    """Inputs of every domain.

    Attributes:
        rows: By domain, uint8 images or float activations, [N, ...].
        start: Stage at which they enter the backbone.
        view: How images are to be looked at; activations are of that view already.
    """

    rows: dict[str, Tensor]
    start: int
    view: ImageView = AS_IT_IS

    def change(self) -> Callable[[Tensor], Tensor]:
        """What is still to be done to rows before they enter."""
        return self.view.change if self.start == 0 else unchanged


class ActivationCache:
    """Activations after a frozen prefix, in memory, least recently used out first.

    The key holds the weights of the prefix and the view, so trials share what they have in common and nothing else.

    Args:
        capacity_bytes: Of this process. Prefixes whose activations need more are computed at every step instead.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._entries: OrderedDict[str, dict[str, Tensor]] = OrderedDict()

    def inputs(
        self,
        model: TransferModel,
        depth: int,
        images: dict[str, Tensor],
        device: torch.device,
        view: ImageView = AS_IT_IS,
    ) -> Inputs:
        key = f"{prefix_key(model, depth)} {view.name}"
        if key not in self._entries:
            if not self._make_room(_size_bytes(model, depth, images, device)):
                return Inputs(images, 0, view)
            self._entries[key] = {name: _activations(model, depth, rows, device, view) for name, rows in images.items()}
        self._entries.move_to_end(key)
        return Inputs(self._entries[key], depth, view)

    def _make_room(self, needed: int) -> bool:
        if needed > self.capacity_bytes:
            return False
        while self._held() + needed > self.capacity_bytes:
            self._entries.popitem(last=False)
        return True

    def _held(self) -> int:
        return sum(rows.nbytes for entry in self._entries.values() for rows in entry.values())


def prefix_key(model: TransferModel, depth: int) -> str:
    """SHA-256 of the first `depth` stages: their structure, weights, buffers, and the entry before them."""
    digest = hashlib.sha256(repr((model.backbone.entry, model.backbone.stages[:depth])).encode())
    for name, tensor in model.backbone.stages[:depth].state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def _run(model: TransferModel, depth: int, images: Tensor, device: torch.device) -> Tensor:
    was_training = model.training
    model.eval()
    result = model.prefix(images.to(device), depth)
    model.train(was_training)
    return result


def _size_bytes(model: TransferModel, depth: int, images: dict[str, Tensor], device: torch.device) -> int:
    one = _run(model, depth, images["source_holdout"][:1], device)
    return one.nbytes * sum(len(rows) for rows in images.values())


def _activations(
    model: TransferModel, depth: int, images: Tensor, device: torch.device, view: ImageView = AS_IT_IS
) -> Tensor:
    order = model.backbone.entry.order(images)
    parts = [_run(model, depth, view.change(images[rows]), device).cpu() for rows in order.split(EVAL_BATCH)]
    return torch.cat(parts)[order.argsort()]
