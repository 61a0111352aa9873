"""What an adaptation method is: named losses of a source batch and a target batch."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.registry import Registry

LOSS_NAMES = ("task", "domain", "consistency", "reconstruction")


@dataclass(frozen=True)
class Outputs:
    """What the network gives for one batch of one domain.

    Attributes:
        features: Output of the backbone, [N, D].
        logits: Output of the head, [N, C].
    """

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class MethodContext:
    """What a method may know when it is built.

    Attributes:
        feature_dim: D, width of the features.
        num_classes: C.
    """

    feature_dim: int
    num_classes: int


class AdaptationMethod(nn.Module):
    """Named losses that close the gap between two domains.

    A subclass takes a `MethodContext` and, keyword-only, the parameters that a search may choose. Learned parts
    (discriminators) are submodules: they are trained, wrapped in DDP and saved with the network.

    Attributes:
        needs_target: Whether `losses` looks at the target batch; if not, the target is neither loaded nor run.
        loss_names: The losses that it gives, from `LOSS_NAMES`.
    """

    needs_target: bool = True
    loss_names: tuple[str, ...] = ("task", "domain")

    def __init__(self, context: MethodContext) -> None:
        super().__init__()

    def losses(self, source: Outputs, labels: Tensor, target: Outputs | None, progress: float) -> dict[str, Tensor]:
        """The losses of one step, each a scalar with gradient.

        Args:
            source: Outputs for the source batch, N rows.
            labels: Source labels, [N], int64.
            target: Outputs for the target batch, M rows; `None` if the method does not need it.
            progress: In [0, 1] of full fidelity.
        """
        raise NotImplementedError


def task_loss(source: Outputs, labels: Tensor) -> Tensor:
    """Cross-entropy of the source batch."""
    return F.cross_entropy(source.logits, labels)


METHODS: Registry[AdaptationMethod] = Registry("adaptation method")
