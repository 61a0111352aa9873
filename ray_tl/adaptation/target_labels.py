"""Methods that learn from the few target examples whose labels are known."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.adaptation.method import METHODS, AdaptationMethod, DomainOutputs, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision
from ray_tl.adaptation.published import RATE_OF_DANN, SLOW_BACKBONE
from ray_tl.adaptation.reweighting import weighted_source_loss, weighted_task_loss
from ray_tl.errors import InvalidInput
from ray_tl.registry import Published

LARGEST_ERROR = 0.49  # a round of boosting needs to be better than chance
SMALLEST_ERROR = 0.01
LIKE_MME = {
    **SLOW_BACKBONE,
    **RATE_OF_DANN,
    "optimizer": {"sgd": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}},
    "batch_size": 24,
}


@METHODS.register(
    "fine_tune",
    published=Published("Saito et al., 2019, https://arxiv.org/abs/1904.06487: trained as S+T", trial=LIKE_MME),
    family="source",
)
class FineTune(AdaptationMethod):
    """Cross-entropy on the labelled target examples alone: the source is never looked at.

    Args:
        context: Gives the number of labelled target examples.

    Raises:
        InvalidInput: If there are none.
    """

    needs = ("target_labelled",)
    takes_mixed_source = False
    loss_names = ("task",)

    def __init__(self, context: MethodContext) -> None:
        super().__init__(context)
        _require_labels("fine_tune", context)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": target_task_loss(step)}


@METHODS.register(
    "source_and_target",
    ranges={"target_share": {"uniform": [0.1, 0.9]}},
    published=Published(
        "Saito et al., 2019, https://arxiv.org/abs/1904.06487",
        params={"target_share": 0.5},
        trial=LIKE_MME,
    ),
    family="source",
)
class SourceAndTarget(AdaptationMethod):
    """S+T: cross-entropy on the source and on the labelled target examples.

    The baseline of Saito et al., "Semi-supervised Domain Adaptation via Minimax Entropy", 2019,
    https://arxiv.org/abs/1904.06487, sec. 4. Departure: the share of the target is a parameter.

    Args:
        context: Gives the number of labelled target examples.
        target_share: Of the labelled target examples in the loss, in [0, 1].

    Raises:
        InvalidInput: If there are none, or the share is out of range.
    """

    needs = ("source", "target_labelled")
    loss_names = ("task",)

    def __init__(self, context: MethodContext, *, target_share: float = 0.5) -> None:
        super().__init__(context)
        _require_labels("source_and_target", context)
        _require_share("source_and_target.target_share", target_share)
        self.target_share = target_share

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": torch.lerp(task_loss(step), target_task_loss(step), self.target_share)}

    def target_task(self, step: StepOutputs) -> Tensor:
        return self.target_share * target_task_loss(step)


@full_precision
def boosted_weights(
    source_weights: Tensor, target_weights: Tensor, source_wrong: Tensor, target_wrong: Tensor, *, rounds: int
) -> tuple[Tensor, Tensor]:
    """Weights of source rows [N] and target rows [M] after one round of TrAdaBoost; both sum to 1 together.

    Dai et al., "Boosting for Transfer Learning", 2007, https://doi.org/10.1145/1273496.1273521, fig. 1: a wrong source
    row loses weight by beta = 1 / (1 + sqrt(2 ln N / rounds)), a wrong target row gains by (1 - e) / e, where e is the
    weighted error on the target. Departures: e is kept in [0.01, 0.49], and the weights sum to 1 after each round,
    which changes none of the paper's distributions.

    Args:
        source_weights: [N], above 0.
        target_weights: [M], above 0.
        source_wrong: 1 for a row that is misclassified, otherwise 0, [N].
        target_wrong: The same, [M].
        rounds: Of boosting in all, >= 1.
    """
    error = (target_weights @ target_wrong / target_weights.sum()).clamp(SMALLEST_ERROR, LARGEST_ERROR)
    beta = 1 / (1 + math.sqrt(2 * math.log(max(2, len(source_weights))) / rounds))
    source = source_weights * beta**source_wrong
    target = target_weights * ((1 - error) / error) ** target_wrong
    total = source.sum() + target.sum()
    return source / total, target / total


@METHODS.register(
    "tradaboost",
    ranges={"rounds": {"int": [2, 20]}, "target_share": {"uniform": [0.1, 0.9]}},
    published=Published(
        "Dai et al., 2007, https://doi.org/10.1145/1273496.1273521: 100 rounds, of other classifiers; trained as S+T",
        params={"rounds": 100},
        trial=LIKE_MME,
    ),
    family="source",
)
class TrAdaBoost(AdaptationMethod):
    """TrAdaBoost: source rows that contradict the labelled target examples lose weight, epoch by epoch.

    Dai et al., 2007, https://doi.org/10.1145/1273496.1273521; see `boosted_weights`. Departures: a round is an epoch of
    one network that goes on learning, not a new classifier, and that network decides at the end, not a vote of the
    later rounds.

    Args:
        context: Gives the numbers of source rows and labelled target examples.
        rounds: N in the paper's beta: the smaller, the faster a wrong source row loses weight; >= 1.
        target_share: Of the target's weights in the first round, above 0 and below 1; the paper leaves it open.

    Raises:
        InvalidInput: If there are no labelled target examples, or a parameter is out of range.
    """

    needs = ("source", "target_labelled")
    needs_domains = ("source", "target_labelled")
    takes_mixed_source = False  # a weight belongs to one source row
    takes_new_source_rows = False
    loss_names = ("task",)
    source_weights: Tensor
    target_weights: Tensor

    def __init__(self, context: MethodContext, *, rounds: int = 10, target_share: float = 0.5) -> None:
        super().__init__(context)
        _require_labels("tradaboost", context)
        if rounds < 1:
            raise InvalidInput(f"tradaboost.rounds={rounds} must be 1 or more; 10 is usual.")
        if not 0 < target_share < 1:
            raise InvalidInput(f"tradaboost.target_share={target_share} leaves one domain no weight; 0.5 is usual.")
        self.rounds = rounds
        num_source, num_target = context.num_source, context.num_target_labelled
        self.register_buffer("source_weights", torch.full((num_source,), (1 - target_share) / num_source))
        self.register_buffer("target_weights", torch.full((num_target,), target_share / num_target))

    @torch.no_grad()
    def begin_epoch(self, domains: Mapping[str, DomainOutputs], progress: float) -> None:
        if progress == 0:
            return  # nothing has been learned that could be right or wrong
        wrong = [_wrong(domains[name]).to(self.source_weights) for name in ("source", "target_labelled")]
        source, target = boosted_weights(self.source_weights, self.target_weights, *wrong, rounds=self.rounds)
        self.source_weights.copy_(source)
        self.target_weights.copy_(target)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        assert step.source.rows is not None
        # A batch holds equally many rows of both: a row's weight counts in relation to the mean of its domain.
        source = self.source_weights[step.source.rows] * len(self.source_weights)
        return {"task": weighted_source_loss(step, source) + self.target_task(step)}

    def target_task(self, step: StepOutputs) -> Tensor:
        assert step.target_labelled.rows is not None
        assert step.target_labels is not None
        weights = self.target_weights[step.target_labelled.rows] * len(self.target_weights)
        logits, labels = step.target_labelled.logits, step.target_labels
        return weighted_task_loss(logits, weights, labels=labels, smoothing=step.label_smoothing)


def target_task_loss(step: StepOutputs) -> Tensor:
    """Cross-entropy of the labelled target batch."""
    assert step.target_labels is not None
    return F.cross_entropy(step.target_labelled.logits, step.target_labels, label_smoothing=step.label_smoothing)


def _wrong(outputs: DomainOutputs) -> Tensor:
    assert outputs.labels is not None
    return outputs.logits.argmax(dim=1) != outputs.labels


def _require_labels(method: str, context: MethodContext) -> None:
    if context.num_target_labelled < 1:
        raise InvalidInput(
            f"method={method!r} learns from labelled target examples, and there are none to train on; give a folder of "
            "them with --target-labelled (and not target_labels_for: choice), or take the method out of the space."
        )


def _require_share(field: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise InvalidInput(f"{field}={share!r} is out of range; choose between 0 and 1, 0.5 is usual.")
