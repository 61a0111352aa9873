"""No adaptation: the baseline that every other method has to beat."""

from torch import Tensor

from ray_tl.adaptation.method import METHODS, AdaptationMethod, StepOutputs, task_loss
from ray_tl.adaptation.published import LIKE_CDAN
from ray_tl.registry import Published


@METHODS.register(
    "source_only",
    published=Published(
        "Long et al., 2018, https://arxiv.org/abs/1705.10667: the source model of those comparisons",
        trial=LIKE_CDAN,
    ),
    family="source",
)
class SourceOnly(AdaptationMethod):
    """Cross-entropy on the source alone; the target is never looked at."""

    needs = ("source",)
    takes_target_labels = False
    loss_names = ("task",)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step)}
