"""What an adaptation method is: named losses of a source batch and a target batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.registry import Registry

LOSS_NAMES = ("task", "domain", "consistency", "reconstruction")
View = Literal["source", "target", "strong", "target_labelled", "auxiliary"]


@dataclass(frozen=True)
class Outputs:
    """What the network gives for one batch of one domain.

    Attributes:
        features: Output of the backbone, [N, D].
        logits: Output of the head, [N, C].
        inputs: What entered the network: images in 0..1, or activations before stage `start`, [N, ...].
        rows: Number of each example in its domain, int64 [N].
    """

    features: Tensor
    logits: Tensor
    inputs: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class StepOutputs:
    """All that a method is given in one step. A view that it has not declared is not there: a `KeyError`.

    Attributes:
        views: Outputs by view: `source`; `target`; `strong`, the target's rows again under a stronger random change;
            `target_labelled`, the few examples of the target whose labels are known.
        labels: Of the source rows, int64 [N]; of mixtures the share of each class, [N, C].
        progress: In [0, 1] of full fidelity.
        start: Stage at which the inputs entered the backbone; 0 for images.
        target_labels: Of the rows of `target_labelled`, int64 [N]; `None` if there are none.
        label_smoothing: Share of each label that the task loss spreads over all classes, in [0, 1): Szegedy et al.,
            "Rethinking the Inception Architecture", 2016, https://arxiv.org/abs/1512.00567, section 7.
        class_weights: Of each class in the task loss on the source, [C]; `None` where all weigh 1.
    """

    views: Mapping[View, Outputs]
    labels: Tensor
    progress: float
    start: int = 0
    target_labels: Tensor | None = None
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    @property
    def source(self) -> Outputs:
        return self.views["source"]

    @property
    def target(self) -> Outputs:
        return self.views["target"]

    @property
    def strong(self) -> Outputs:
        return self.views["strong"]

    @property
    def target_labelled(self) -> Outputs:
        return self.views["target_labelled"]


@dataclass(frozen=True)
class MethodContext:
    """What a method may know when it is built.

    Attributes:
        feature_dim: D, width of the features.
        num_classes: C.
        num_source: Rows of the labelled source.
        num_target: Rows of the unlabelled target.
        num_target_labelled: Examples of the target whose labels were given for training.
        class_names: In the order of the labels, C; empty where a method is only restored.
        embed_texts: Texts to [N, D], of a backbone that knows words; see `StagedBackbone.embed_texts`.
        target_shares: Share of each class in the target, as stated, C of sum 1; `None` where nothing is known of them.
    """

    feature_dim: int
    num_classes: int
    num_source: int = 0
    num_target: int = 0
    num_target_labelled: int = 0
    class_names: tuple[str, ...] = ()
    embed_texts: Callable[[Sequence[str]], Tensor] | None = None
    target_shares: tuple[float, ...] | None = None


@dataclass(frozen=True)
class DomainOutputs:
    """Outputs for a whole domain in evaluation mode, without gradient, the same on every rank.

    Attributes:
        features: [N, D].
        logits: [N, C].
        labels: Of `source` and `target_labelled`, int64 [N]; `None` for the target.
    """

    features: Tensor
    logits: Tensor
    labels: Tensor | None = None


class AdaptationMethod(nn.Module):
    """Named losses that close the gap between two domains.

    A subclass takes a `MethodContext` and, keyword-only, the parameters that a search may choose. Learned parts
    (discriminators) are submodules: they are trained, wrapped in DDP and saved with the network. A teacher is a
    submodule too, without gradients.

    Attributes:
        needs: The views that `losses` looks at; others are neither loaded nor run.
        needs_domains: The whole domains that `begin_epoch` looks at: `source`, `target`, `target_labelled`.
        sets_statistics: Whether `before_evaluation` sets statistics from the target; it is not called otherwise.
        takes_target_labels: Whether labelled examples of the target, where there are some, join its task loss.
        takes_mixed_source: Whether source examples may be mixtures of two, with labels to match.
        takes_new_source_rows: Whether rows may join the source, and leave it, between two epochs.
        loss_names: The losses that it gives, from `LOSS_NAMES`.
        aligns_features: Whether it means to make the features of both domains alike; then the doctor expects it.
        needs_words: Whether the classes are described to it in words, which the backbone must know.
        copies_network: Whether it keeps one more copy of the network in memory, such as a teacher.
        restart: Progress at which a second optimisation begins, for which the optimiser forgets its averages of
            gradients; at 0 it has none.
        restart_rate: Learning rates of that second optimisation, relative to the first one's.
    """

    needs: tuple[View, ...] = ("source", "target")
    needs_domains: tuple[str, ...] = ()
    sets_statistics: bool = False
    takes_target_labels: bool = True
    takes_mixed_source: bool = True
    takes_new_source_rows: bool = True
    loss_names: tuple[str, ...] = ("task", "domain")
    aligns_features: bool = False
    needs_words: bool = False
    copies_network: bool = False
    restart: float = 0.0
    restart_rate: float = 1.0

    def __init__(self, context: MethodContext) -> None:
        super().__init__()

    def rate_at(self, progress: float) -> float:
        """Factor of all learning rates at this progress."""
        return self.restart_rate if 0 < self.restart <= progress else 1.0

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        """The losses of one step, each a scalar with gradient."""
        raise NotImplementedError

    def target_task(self, step: StepOutputs) -> Tensor | None:
        """What the labelled target examples that it needs add to its loss `task`; `None` if that can't be told."""
        return None

    def needs_at(self, progress: float) -> tuple[View, ...]:
        """The views that `losses` looks at now; all of `needs`, unless a method has phases."""
        return self.needs

    def idle_losses(self, progress: float) -> tuple[str, ...]:
        """The losses that do not count now, though they will or did: 0, with gradients of 0."""
        return ()

    def attach(self, model: nn.Module) -> None:
        """Called once, with the network as it is before training: the moment to copy a teacher from it."""

    def begin_epoch(self, domains: Mapping[str, DomainOutputs], progress: float) -> None:
        """Called before each epoch with the domains of `needs_domains`, on every rank alike.

        What is set here need not be saved: after a resume it is called again with the same network.
        """

    def before_step(self, model: nn.Module, progress: float) -> None:
        """Called between gradients and step, on every rank alike; a part whose `grad` becomes `None` stays as it is."""

    def before_evaluation(self, model: nn.Module, target: Iterable[Tensor], start: int) -> None:
        """Called when an epoch has trained and before it is evaluated: the moment to set statistics for the target.

        Args:
            model: As it will be evaluated and saved.
            target: This rank's share of the whole target in joint batches, each as it enters at stage `start`.
            start: Stage at which it enters the backbone; 0 for images.
        """

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Called after each step of the optimiser, on every rank alike: the moment to move a teacher."""


def task_loss(step: StepOutputs) -> Tensor:
    """Cross-entropy of the source batch; with weights of classes still over the number of its rows."""
    if step.class_weights is None:  # summed otherwise, a trial of before would differ in its last digit
        return F.cross_entropy(step.source.logits, step.labels, label_smoothing=step.label_smoothing)
    return source_losses(step).mean()


def source_losses(step: StepOutputs) -> Tensor:
    """Cross-entropy of each row of the source batch, [N]: -sum w q log p over classes of weight w, for a label q."""
    weights = None if step.class_weights is None else step.class_weights.to(step.source.logits)
    return F.cross_entropy(
        step.source.logits, step.labels, weights, reduction="none", label_smoothing=step.label_smoothing
    )


METHODS: Registry[AdaptationMethod] = Registry("adaptation method")
