"""Methods in which a network without gradients, the teacher, says what to predict on the target."""

import copy
from functools import partial
from typing import Literal, Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, Outputs, StepOutputs, task_loss
from ray_tl.adaptation.numerics import (
    finite_log_softmax,
    full_precision,
    require_below_one,
    require_positive,
    require_threshold,
)
from ray_tl.adaptation.published import constant
from ray_tl.adaptation.zero_shot import TEMPLATE, ZeroShotHead, class_weights, require_template
from ray_tl.registry import Published


class Teacher(nn.Module):
    """A copy of the network, saved with it, that takes no gradients and stays in evaluation mode whatever is said.

    Args:
        model: Gives features and logits for inputs, the stage at which they enter and, unless it is the target, their
            domain. Where inputs are activations after frozen stages, its frozen stages and the teacher's are the same:
            freezing never gets deeper.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(model).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @torch.no_grad()
    def forward(self, step: StepOutputs) -> Tensor:
        """Logits of the target view, [N, C], without gradient."""
        logits: Tensor = self.network(step.target.inputs, step.start)[1]
        return logits

    @torch.no_grad()
    def source_features(self, step: StepOutputs) -> Tensor:
        """Features of the source view, [N, D], without gradient."""
        features: Tensor = self.network(step.source.inputs, step.start, ("source",))[0]
        return features

    @torch.no_grad()
    def follow(self, model: nn.Module, decay: float) -> None:
        """Parameters become `decay` of themselves plus the rest of the model's; buffers become the model's."""
        average = get_ema_multi_avg_fn(decay)
        average(list(self.network.parameters()), list(model.parameters()), 0)
        for mine, theirs in zip(self.network.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)


@full_precision
def consistency_loss(student: Tensor, teacher: Tensor, *, threshold: float) -> Tensor:
    """Mean squared difference of the probabilities where the teacher is confident, over all rows of this rank.

    French et al., "Self-ensembling for visual domain adaptation", 2018, https://arxiv.org/abs/1706.05208, sec. 3 and
    3.2: rows where the teacher's confidence is below the threshold count 0. Means are over rows and classes. A mean
    over rows: DDP's average over ranks is that of the joined batch.

    Args:
        student: Logits [N, C].
        teacher: Logits [N, C] of the same rows; without gradient.
        threshold: Above 0 and at most 1.
    """
    expected = teacher.detach().softmax(dim=1)
    confident = expected.amax(dim=1) >= threshold
    squares = (student.softmax(dim=1) - expected).square().mean(dim=1)
    return (confident * squares).mean()


@full_precision
def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Divergence of the softened predictions, T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over rows.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531,
    sec. 2. Departure: less the teacher's entropy, a constant, so that the loss of a student that agrees is 0.

    Args:
        student: Logits [N, C].
        teacher: Logits [N, C] of the same rows; without gradient.
        temperature: T, above 0.
    """
    expected = finite_log_softmax(teacher.detach() / temperature)
    actual = finite_log_softmax(student / temperature)
    return temperature**2 * F.kl_div(actual, expected, reduction="batchmean", log_target=True)


class RecordedTeacher(AdaptationMethod):
    """Distillation from predictions that a teacher made before: both domains are learned from what it said of each row.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531, sec. 2, the soft part of the objective on both domains; the
    teacher saw the labels of the source. Departures: no labels beside the soft targets; the teacher saw each example
    unchanged, the student sees it as it is augmented. No search chooses it: a teacher is no setting.

    Args:
        source: Logits of the teacher for every source row in half precision, [N, C], on the CPU.
        target: The same for every target row, [M, C].
        temperature: Divides the logits of both, above 0.
    """

    loss_names = ("task", "consistency")
    takes_mixed_source = False
    takes_new_source_rows = False

    def __init__(self, source: Tensor, target: Tensor, *, temperature: float = 2.0) -> None:
        super().__init__(MethodContext(0, source.shape[1], len(source), len(target)))
        self._source, self._target = source, target  # no buffers: checkpoints do without
        self.temperature = temperature

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {
            "task": self._divergence(step.source, self._source),
            "consistency": self._divergence(step.target, self._target),
        }

    def _divergence(self, student: Outputs, recorded: Tensor) -> Tensor:
        assert student.rows is not None
        teacher = recorded[student.rows.cpu()].to(student.logits)
        return distillation_loss(student.logits, teacher, temperature=self.temperature)


@METHODS.register(
    "mean_teacher",
    ranges={"decay": {"choice": [0.9, 0.99, 0.999]}, "threshold": {"uniform": [0.5, 1.0]}},
    published=Published(
        "French et al., 2018, https://arxiv.org/abs/1706.05208 and the authors' code, small images",
        params={"decay": 0.99, "threshold": 0.968},
        trial={
            "freeze_depth": "everything",
            "optimizer": {"adam": {"lr": 1e-3}},
            "lr_schedule": "constant",
            "batch_size": 256,
            **constant(consistency=3.0),
        },
    ),
    family="confidence",
)
class MeanTeacher(AdaptationMethod):
    """Mean Teacher: predictions on a strong view agree with those of a moving average of the network.

    Tarvainen and Valpola, "Mean teachers are better role models", 2017, https://arxiv.org/abs/1703.01780, sec. 2, and
    French et al., 2018, https://arxiv.org/abs/1706.05208. Departures: the teacher takes over the network's buffers and
    runs in evaluation mode, where theirs normalise by the batch; source and target share a batch; no loss of class
    balance.

    Args:
        context: Not used.
        decay: Of the average, per step, at least 0 and below 1.
        threshold: Least confidence of the teacher in a row that is learned from, above 0 and at most 1.
    """

    needs = ("source", "target", "strong")
    loss_names = ("task", "consistency")
    copies_network = True
    teacher: Teacher

    def __init__(self, context: MethodContext, *, decay: float = 0.99, threshold: float = 0.968) -> None:
        super().__init__(context)
        require_below_one("mean_teacher.decay", decay, usual=0.99)
        require_threshold("mean_teacher.threshold", threshold, usual=0.968)
        self.decay = decay
        self.threshold = threshold

    def attach(self, model: nn.Module) -> None:
        self.teacher = Teacher(model)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        consistency = consistency_loss(step.strong.logits, self.teacher(step), threshold=self.threshold)
        return {"task": task_loss(step), "consistency": consistency}

    def after_step(self, model: nn.Module, progress: float) -> None:
        self.teacher.follow(model, self.decay)


class _WithBackbone(Protocol):
    """A network that can be taken apart."""

    def with_head(self, head: nn.Module) -> nn.Module: ...


@METHODS.register(
    "distillation",
    ranges={"start": {"uniform": [0.1, 0.5]}, "temperature": {"log_uniform": [1.0, 5.0]}},
    published=Published(
        "Hinton et al., 2015, https://arxiv.org/abs/1503.02531: temperature 2, both losses alike; when it begins is "
        "ours",
        params={"start": 0.3, "temperature": 2.0},
        trial=constant(consistency=1.0),
    ),
    family="confidence",
)
class Distillation(AdaptationMethod):
    """Distillation: from `start` on, the network on the target stays near what it was then, or near what words say.

    Hinton et al., 2015, https://arxiv.org/abs/1503.02531. The teacher is not a larger network but the network itself,
    trained on the source until `start`: up to there the loss is 0 and the teacher a copy of the network after each
    step, so the snapshot at `start` needs no mark of its own to survive a resume. Or it is the zero-shot classifier of
    the backbone before training, which never changes.

    Args:
        context: Of a zero-shot teacher, gives the names of the classes and the text tower.
        start: Progress at which the teacher stops to follow, at least 0 and below 1; at 0 it is the network before
            training.
        temperature: Divides the logits of both, above 0.
        teacher: `source`, the network itself, or `zero_shot`, for a backbone that knows words.
        template: By which a zero-shot teacher describes a class, whose name takes the place of `{}`.
    """

    loss_names = ("task", "consistency")
    copies_network = True
    teacher: Teacher

    def __init__(
        self,
        context: MethodContext,
        *,
        start: float = 0.3,
        temperature: float = 2.0,
        teacher: Literal["source", "zero_shot"] = "source",
        template: str = TEMPLATE,
    ) -> None:
        super().__init__(context)
        require_below_one("distillation.start", start, usual=0.3)
        require_positive("distillation.temperature", temperature, usual=2.0)
        require_template("distillation.template", template)
        self.start = start
        self.temperature = temperature
        self.needs_words = teacher == "zero_shot"
        self.describe = partial(class_weights, context, template)

    def attach(self, model: nn.Module) -> None:
        if not self.needs_words:
            self.teacher = Teacher(model)
            return
        weights = self.describe()
        head = ZeroShotHead(*weights.shape)
        head.weights = weights
        self.teacher = Teacher(cast("_WithBackbone", model).with_head(head))

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step), "consistency": self._consistency(step)}

    def after_step(self, model: nn.Module, progress: float) -> None:
        if progress < self.start and not self.needs_words:
            self.teacher.follow(model, decay=0.0)

    def _consistency(self, step: StepOutputs) -> Tensor:
        if step.progress < self.start:
            return (0 * step.target.logits).sum()  # DDP waits for the gradient of every parameter
        return distillation_loss(step.target.logits, self.teacher(step), temperature=self.temperature)
