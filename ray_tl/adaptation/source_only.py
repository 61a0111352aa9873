"""No adaptation: the baseline that every other method has to beat."""

from torch import Tensor

from ray_tl.adaptation.method import METHODS, AdaptationMethod, Outputs, task_loss


@METHODS.register("source_only")
class SourceOnly(AdaptationMethod):
    """Cross-entropy on the source alone; the target is never looked at."""

    needs_target = False
    loss_names = ("task",)

    def losses(self, source: Outputs, labels: Tensor, target: Outputs | None, progress: float) -> dict[str, Tensor]:
        return {"task": task_loss(source, labels)}
