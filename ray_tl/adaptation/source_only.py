"""No adaptation: the baseline that every other method has to beat."""

from torch import Tensor

from ray_tl.adaptation.method import METHODS, AdaptationMethod, StepOutputs, task_loss


@METHODS.register("source_only")
class SourceOnly(AdaptationMethod):
    """Cross-entropy on the source alone; the target is never looked at."""

    needs = ("source",)
    takes_target_labels = False
    loss_names = ("task",)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step)}
