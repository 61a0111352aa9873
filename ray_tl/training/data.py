"""A domain pair as tensors, and the activations of a frozen prefix computed once."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_tl.data.augmentation import AS_IT_IS, ImageView
from ray_tl.data.augmentation.views import unchanged
from ray_tl.data.domains import DomainPair
from ray_tl.models.transfer_model import TransferModel
from ray_tl.training.evaluation import EVAL_BATCH

CACHE_BYTES = 1 << 30
DOMAINS = ("source", "source_holdout", "target", "target_test", "target_labelled", "auxiliary")
EVALUATED = ("source_holdout", "target", "target_test")


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
        self.cache = ActivationCache(CACHE_BYTES)

    def inputs(self, model: TransferModel, depth: int) -> "Inputs":
        """What enters the network when its first `depth` stages are frozen: activations if they fit, else images.

        Frozen stages behind the first tap are computed at every step, because all taps are needed.
        """
        if depth == 0:
            return Inputs(self.rows, 0)
        return self.cache.inputs(model, min(depth, model.features.max_start), self.rows, self.device)

    def evaluated(self, model: TransferModel, depth: int, views: Sequence[ImageView]) -> "list[Inputs]":
        """As `inputs`, once for each view, of what is evaluated: what frozen stages give for a view is kept, too."""
        if depth == 0:
            return [Inputs(self.rows, 0, view) for view in views]
        rows = {name: rows for name, rows in self.rows.items() if name in EVALUATED}
        cut = min(depth, model.features.max_start)
        return [
            self.inputs(model, depth) if view == AS_IT_IS else self.cache.inputs(model, cut, rows, self.device, view)
            for view in views
        ]


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
