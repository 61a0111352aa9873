"""Two methods at once."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor, nn

from ray_tl.adaptation.adversarial import Dann
from ray_tl.adaptation.alignment import Coral
from ray_tl.adaptation.conditional import Cdan
from ray_tl.adaptation.confidence import Mcc
from ray_tl.adaptation.method import METHODS, AdaptationMethod, DomainOutputs, MethodContext, StepOutputs, View
from ray_tl.adaptation.numerics import require_positive
from ray_tl.adaptation.published import LIKE_CDAN, constant
from ray_tl.adaptation.self_training import PseudoLabel
from ray_tl.registry import Published

T = TypeVar("T")
_RANGES: Mapping[str, Mapping[str, object]] = {
    "hidden_width": {"choice": [64, 256, 1024]},
    "gamma": {"log_uniform": [1.0, 20.0]},
    "temperature": {"log_uniform": [1.0, 5.0]},
    "second_weight": {"log_uniform": [0.1, 10.0]},
}


class Composed(AdaptationMethod):
    """The losses of a first method, plus those of a second times a weight; the task counts once.

    A loss that only one of them has keeps its name; where both have it, the sum does, and a loss weighting acts on the
    sum. Both are given every view that either needs, each is given only the domains that it needs itself, and the
    hooks reach the first before the second.

    Args:
        context: Not used.
        first: Its task loss is the task loss of both.
        second: Its task loss is left out, so nothing that learns may depend on that alone.
        second_weight: On every loss of the second method but the task, above 0.

    Raises:
        InvalidInput: If the weight is not a finite number above 0.
    """

    def __init__(
        self, context: MethodContext, first: AdaptationMethod, second: AdaptationMethod, *, second_weight: float
    ) -> None:
        super().__init__(context)
        require_positive("second_weight", second_weight, usual=1.0)
        self.first, self.second, self.second_weight = first, second, second_weight
        self.needs = _union(first.needs, second.needs)
        self.takes_target_labels = first.takes_target_labels and second.takes_target_labels
        self.takes_mixed_source = first.takes_mixed_source and second.takes_mixed_source
        self.takes_new_source_rows = first.takes_new_source_rows and second.takes_new_source_rows
        self.sets_statistics = first.sets_statistics or second.sets_statistics
        self.needs_domains = _union(first.needs_domains, second.needs_domains)
        self.aligns_features = first.aligns_features or second.aligns_features
        self.copies_network = first.copies_network or second.copies_network
        self.loss_names = _union(first.loss_names, second.loss_names)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        total = self.first.losses(step)
        for name, loss in self.second.losses(step).items():
            if name != "task":
                weighted = self.second_weight * loss
                total[name] = total[name] + weighted if name in total else weighted
        return total

    def needs_at(self, progress: float) -> tuple[View, ...]:
        return _union(self.first.needs_at(progress), self.second.needs_at(progress))

    def attach(self, model: nn.Module) -> None:
        self.first.attach(model)
        self.second.attach(model)

    def begin_epoch(self, domains: Mapping[str, DomainOutputs], progress: float) -> None:
        for method in (self.first, self.second):
            if method.needs_domains:
                method.begin_epoch({name: domains[name] for name in method.needs_domains}, progress)

    def before_step(self, model: nn.Module, progress: float) -> None:
        self.first.before_step(model, progress)
        self.second.before_step(model, progress)

    def before_evaluation(self, model: nn.Module, target: Iterable[Tensor], start: int) -> None:
        batches = list(target)
        for method in (self.first, self.second):
            if method.sets_statistics:
                method.before_evaluation(model, batches, start)

    def after_step(self, model: nn.Module, progress: float) -> None:
        self.first.after_step(model, progress)
        self.second.after_step(model, progress)


@METHODS.register(
    "dann_mcc",
    ranges=_RANGES,
    published=Published(
        "Jin et al., 2020, https://arxiv.org/abs/1912.03699: MCC with weight 1 beside the other loss",
        params={"hidden_width": 1024, "gamma": 10.0, "temperature": 2.5, "second_weight": 1.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="adversarial",
)
def dann_mcc(
    context: MethodContext,
    *,
    hidden_width: int = 256,
    gamma: float = 10.0,
    temperature: float = 2.5,
    second_weight: float = 1.0,
) -> Composed:
    """DANN and MCC together: features that can't be told apart, and classes that are not confused on the target.

    Jin et al., "Minimum Class Confusion for Versatile Domain Adaptation", 2020, https://arxiv.org/abs/1912.03699,
    where MCC also serves as a regulariser of other methods.

    Args:
        context: Gives the width of the features.
        hidden_width: Width of the discriminator's two hidden layers, >= 1.
        gamma: How fast the strength of the reversal rises with progress, above 0.
        temperature: Of MCC, above 0.
        second_weight: Of MCC relative to DANN, above 0.
    """
    dann = Dann(context, hidden_width=hidden_width, gamma=gamma)
    return Composed(context, dann, Mcc(context, temperature=temperature), second_weight=second_weight)


@METHODS.register(
    "cdan_mcc",
    ranges={**_RANGES, "max_width": {"choice": [1024, 4096]}},
    published=Published(
        "Jin et al., 2020, https://arxiv.org/abs/1912.03699: MCC with weight 1 beside the other loss",
        params={"hidden_width": 1024, "gamma": 10.0, "temperature": 2.5, "second_weight": 1.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="adversarial",
)
def cdan_mcc(
    context: MethodContext,
    *,
    hidden_width: int = 256,
    gamma: float = 10.0,
    max_width: int = 4096,
    temperature: float = 2.5,
    second_weight: float = 1.0,
) -> Composed:
    """CDAN and MCC together: features alike within each predicted class, and no confusion of classes on the target.

    Jin et al., 2020, https://arxiv.org/abs/1912.03699, where MCC also serves as a regulariser of other methods.

    Args:
        context: Gives the width of the features and the number of classes.
        hidden_width: Width of the discriminator's two hidden layers, >= 1.
        gamma: How fast the strength of the reversal rises with progress, above 0.
        max_width: Largest D * C for which CDAN's map is exact, >= 1.
        temperature: Of MCC, above 0.
        second_weight: Of MCC relative to CDAN, above 0.
    """
    cdan = Cdan(context, hidden_width=hidden_width, gamma=gamma, max_width=max_width)
    return Composed(context, cdan, Mcc(context, temperature=temperature), second_weight=second_weight)


@METHODS.register(
    "coral_pseudo_label",
    ranges={"threshold": {"uniform": [0.7, 0.99]}, "second_weight": {"log_uniform": [0.1, 10.0]}},
    published=Published(
        "no paper: CORAL and pseudo-labels with the settings of their own, and equal weights",
        params={"threshold": 0.8, "second_weight": 1.0},
        trial={**LIKE_CDAN, **constant(domain=1.0)},
    ),
    family="alignment",
)
def coral_pseudo_label(context: MethodContext, *, threshold: float = 0.8, second_weight: float = 1.0) -> Composed:
    """CORAL and pseudo-labels together: features of the same covariance, and confident predictions taken as labels.

    Sun and Saenko, "Deep CORAL", 2016, https://arxiv.org/abs/1607.01719, and Lee, "Pseudo-Label", 2013; alignment makes
    the confident predictions right more often.

    Args:
        context: Not used.
        threshold: Of confidence from which a prediction counts as a label, above 0 and at most 1.
        second_weight: Of the pseudo-labels relative to CORAL, above 0.
    """
    return Composed(context, Coral(context), PseudoLabel(context, threshold=threshold), second_weight=second_weight)


def _union(first: tuple[T, ...], second: tuple[T, ...]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*first, *second)))
