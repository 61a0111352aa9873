"""Another labelled task that trains the same layers: its own head on shared features, dropped when training ends."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.numerics import require_positive
from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry


@dataclass(frozen=True)
class MultiTaskContext:
    """What another task may know when it is built.

    Attributes:
        feature_dim: D, width of the features.
        num_classes: Of the other task; 0 if there is none.
    """

    feature_dim: int
    num_classes: int = 0


AUXILIARY = "auxiliary"
"""Name of its loss."""

MULTI_TASKS: Registry["Auxiliary | None"] = Registry("multi-task training")


@MULTI_TASKS.register("none")
def none(context: MultiTaskContext) -> None:
    """The task alone."""


@MULTI_TASKS.register("auxiliary", ranges={"weight": {"log_uniform": [0.05, 2.0]}})
class Auxiliary(nn.Module):
    """A labelled domain with classes of its own: the cross-entropy of a linear head of its own joins the loss.

    Caruana, "Multitask Learning", 1997, https://doi.org/10.1023/A:1007379606734, section 2: hidden layers are shared,
    outputs are not. The head is a part of the training and not of the network that is kept.

    Args:
        context: Gives the width of the features and the number of classes.
        weight: On the cross-entropy, above 0; no loss weighting changes it.

    Raises:
        InvalidInput: If there is no such domain, or the weight is not a finite number above 0.
    """

    def __init__(self, context: MultiTaskContext, *, weight: float = 0.5) -> None:
        super().__init__()
        require_positive("auxiliary.weight", weight, usual=0.5)
        if context.num_classes == 0:
            raise InvalidInput(
                "multi_task='auxiliary' needs another labelled domain; give its folder with --auxiliary, or choose "
                "multi_task: none."
            )
        self.weight = weight
        self.head = nn.Linear(context.feature_dim, context.num_classes)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of features [N, D] and labels int64 [N]."""
        return F.cross_entropy(self.head(features), labels)
