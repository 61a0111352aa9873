"""What to try first, and why: how many examples there are, and how alike the domains are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ray_tl.adaptation.closed_form import is_closed_form
from ray_tl.components import catalogue
from ray_tl.errors import InvalidInput
from ray_tl.models.freezing import stages_that_train
from ray_tl.registry import Scalar
from ray_tl.search_space import Preference

FEW_PER_CLASS, MANY_PER_CLASS = 50, 500
ALIKE, APART = 0.65, 0.85
FITTING = 0.8

CONFIDENT = ("im", "bnm", "mcc", "dann_mcc")
STATISTICS = ("jan", "mmd", "deepjdot", "coral", "ddc")
ADVERSARIAL = ("cdan_e", "dann", "dann_mcc", "cdan_mcc", "mdd", "cdan")
PROBES = ("logistic", "nearest_mean", "knn")
MAPPED = ("coral_closed", "subspace_alignment", "pca_alignment")
GENTLE = ("mcc", "im", "bnm", "source_only")
ABSENT_PERHAPS = ("ba3us", "partial_mcc", "pada")  # for a target that may lack classes of the source
ABSENT_AS_STATED = (("partial_mcc", "pada", "ba3us"), ("ba3us", "pada"))
HALF_TRUST = 0.5
FURTHER = ("source_only", "dann_mcc", "cdan_mcc", "mdd", "fixmatch", "mean_teacher", "iterated_pseudo_label", "afn")
PREPARED = ("zero_shot", "fine_tune")  # these are tried before any advice, where they can be

FROZEN: Mapping[str, object] = {
    "adaptor": {"bottleneck": {"width": 256, "norm": "batch", "activation": "relu", "dropout": 0.0}},
    "unfreezing": {"fixed": {}},
    "lr_multipliers": {"uniform": {"head": 1.0}, "layer_decay": {"head": 1.0}},
    "optimizer": {"adamw": {"lr": 1e-3}, "adam": {"lr": 1e-3}, "sgd": {"lr": 1e-2}},
    "lr_schedule": {"cosine": {}},
    "label_smoothing": 0.1,
    "batch_size": 64,
}
RISING: Mapping[str, object] = {
    "loss_weighting": {name: {"domain": 1.0} for name in ("linear", "cosine", "dann", "constant")}
}
GENTLY_TUNED: Mapping[str, object] = {
    **FROZEN,
    **RISING,
    "unfreezing": {
        "probe_then_fine_tune": {"until": 0.3, "rate_after": 0.1},
        "gradual": {"until": 0.5},
        "fixed": {},
    },
    "lr_multipliers": {"layer_decay": {"decay": 0.75, "head": 1.0}, "uniform": {"head": 1.0}},
}
PLAINLY_TUNED: Mapping[str, object] = {
    "unfreezing": {"fixed": {}},
    "lr_multipliers": {"uniform": {"head": 10.0}, "layer_decay": {"decay": 0.75, "head": 10.0}},
    "optimizer": {"adamw": {"lr": 1e-4}, "adam": {"lr": 1e-4}, "sgd": {"lr": 1e-3}},
    "lr_schedule": {"cosine": {}},
    "batch_size": 64,
}


@dataclass(frozen=True)
class Situation:
    """What decides where a search begins; every figure comes without a label of the target.

    Attributes:
        num_source: Labelled examples of the source, for training.
        num_target: Examples of the target.
        num_classes: C.
        num_target_labelled: Examples of the target whose labels were given for training.
        stage_sizes: Parameters of each stage of the backbone.
        is_pretrained: Whether the backbone has learned anything before.
        domain_accuracy: How well a linear classifier tells the domains apart by the backbone's features, in [0.5, 1].
        probe_accuracy: Of a linear classifier of those features, on source examples that it has not seen, in [0, 1].
        target_classes: What users say of the classes of the target; `stated` where they give the share of each.
    """

    num_source: int
    num_target: int
    num_classes: int
    num_target_labelled: int
    stage_sizes: tuple[int, ...]
    is_pretrained: bool
    domain_accuracy: float
    probe_accuracy: float
    target_classes: Literal["same", "subset", "unknown", "stated"] = "unknown"

    @property
    def per_class(self) -> int:
        return self.num_source // self.num_classes


@dataclass(frozen=True)
class Recipe:
    """One thing to try first.

    Attributes:
        methods: The first of these that the space allows; where it allows none, the recipe is left out.
        reason: In words, with the figure on which it rests.
        stated: By field of the trial: a value, or components with their parameters, the most wanted first. These
            replace what the method's authors state, and of `method` join it.
        preferred: By field of the trial: how well a value suits.
        trains: `head` on frozen features, `stages` too, or `nothing`, where the head is solved for. A recipe for
            stages is left out of a space that freezes them all.
        is_published: Whether what the recipe leaves open is as the method's authors have it, and else at its default;
            otherwise in the middle of the space.
    """

    methods: tuple[str, ...]
    reason: str
    stated: Mapping[str, object] = field(default_factory=dict)
    preferred: Mapping[str, Preference] = field(default_factory=dict)
    trains: Literal["head", "stages", "nothing"] = "head"
    is_published: bool = True


def recipes(situation: Situation) -> Iterator[Recipe]:
    """From what is most likely to be good to what might be, the families of methods taking turns.

    Yosinski et al., "How transferable are features in deep neural networks?", 2014, https://arxiv.org/abs/1411.1792:
    few examples or a near domain speak for frozen features, many for training more of them. Kumar et al., 2022,
    https://arxiv.org/abs/2202.10054: fine-tuning distorts good features out of distribution; a head comes first.
    """
    if not situation.is_pretrained:
        yield from _from_scratch(situation)
        return
    is_told_apart = situation.domain_accuracy > ALIKE
    if situation.num_target_labelled:
        why = f"{situation.num_target_labelled} target examples have labels: they join the source, on frozen features"
        yield _on_frozen(situation, ("source_and_target", *CONFIDENT), why)
    for_absent = [
        _on_frozen(situation, methods, f"{why}, on frozen features", stated)
        for methods, why, stated in _for_absent(situation)
    ]
    if situation.target_classes == "subset":
        yield from for_absent
    fit = f"pretrained features classify {situation.probe_accuracy:.0%} of unseen source examples"
    confident = f"{fit} with {situation.per_class} a class: the head learns on frozen features, made confident on the"
    yield _on_frozen(situation, ("im",), f"{confident} target", RISING)
    yield _on_frozen(situation, ("bnm",), f"{confident} target and diverse", RISING)
    if situation.target_classes != "subset":
        yield from for_absent
    told = f"a linear classifier tells the domains apart by their features in {situation.domain_accuracy:.0%} of cases"
    if is_told_apart:
        yield _on_frozen(situation, (*STATISTICS, *ADVERSARIAL), f"{told}: they are aligned")
    yield Recipe(PROBES, f"{fit}: what these are worth without any training of ours", trains="nothing")
    yield _gently_tuned(situation)
    yield _on_frozen(situation, ("mcc",), f"{confident} target without confusion of classes", RISING)
    yield _plainly_tuned(situation)
    if is_told_apart:
        yield _on_frozen(situation, ADVERSARIAL, f"{told}: a discriminator is to fail at that")
        yield Recipe(MAPPED, f"{told}: the source's features are mapped to the target's", trains="nothing")
    yield from _further(situation)


def _for_absent(situation: Situation) -> Iterator[tuple[tuple[str, ...], str, Mapping[str, object]]]:
    """Methods, reason and what is stated of trials for a target that may lack classes of the source.

    Where users say so, two of different families, as their authors have them; where nothing is said, one that trusts
    its estimate by half: it loses less on a target that lacks nothing. Of two classes none can be absent.
    """
    if situation.target_classes == "subset":
        why = "the target may lack classes of the source, as you say: those that seem absent count for little"
        first, second = ABSENT_AS_STATED
        yield first, why, RISING
        yield second, f"{why}, with another method", RISING
    elif situation.target_classes == "unknown" and situation.num_classes > 2:
        why = "nothing is stated of the target's classes, and some may be absent: those that seem so count for less"
        yield ABSENT_PERHAPS, why, {**RISING, "method": {name: {"trust": HALF_TRUST} for name in ABSENT_PERHAPS}}


def _further(situation: Situation) -> Iterator[Recipe]:
    """Every other method once, as its authors have it, on frozen features."""
    known = catalogue()["method"].names()
    for name in dict.fromkeys([*FURTHER, *STATISTICS, *ADVERSARIAL, *PROBES, *MAPPED, *known]):
        if name in (*PREPARED, "im", "bnm", "mcc"):
            continue
        if is_closed_form(name):
            yield Recipe((name,), "one of the further methods of this space, which trains nothing", trains="nothing")
        else:
            yield _on_frozen(situation, (name,), "one of the further methods of this space, on frozen features")


def _on_frozen(
    situation: Situation, methods: tuple[str, ...], why: str, weighting: Mapping[str, object] | None = None
) -> Recipe:
    preferred = {"freeze_depth": _at_depth(1.0, situation.stage_sizes)}
    return Recipe(methods, why, {**FROZEN, **(weighting or {})}, preferred)


def _gently_tuned(situation: Situation) -> Recipe:
    depth, why = _share_to_freeze(situation)
    preferred: dict[str, Preference] = {"freeze_depth": _at_depth(depth, situation.stage_sizes, may_freeze_all=False)}
    if situation.domain_accuracy > APART:
        preferred["domain_norm"] = lambda value: float(value != "separate")
    share = "most stages" if depth < 0.5 else "deep stages"
    return Recipe(GENTLE, f"{why}: {share} train too", GENTLY_TUNED, preferred, "stages")


def _plainly_tuned(situation: Situation) -> Recipe:
    depth, why = _share_to_freeze(situation)
    preferred = {"freeze_depth": _at_depth(depth, situation.stage_sizes, may_freeze_all=False)}
    reason = f"the plain fine-tune that all others must beat: {why}"
    return Recipe(("source_only",), reason, PLAINLY_TUNED, preferred, "stages")


def _share_to_freeze(situation: Situation) -> tuple[float, str]:
    """Of a pretrained network's stages, by how many examples there are and how well its features fit."""
    if situation.per_class >= MANY_PER_CLASS or situation.probe_accuracy < FITTING:
        depth = 0.0 if situation.per_class >= MANY_PER_CLASS else 0.5
        return depth, (
            f"{situation.per_class} examples a class, and features that classify {situation.probe_accuracy:.0%}"
        )
    depth = 0.9 if situation.per_class < FEW_PER_CLASS else 0.75
    return (
        depth,
        f"only {situation.per_class} examples a class, and features that fit ({situation.probe_accuracy:.0%})",
    )


def _from_scratch(situation: Situation) -> Iterator[Recipe]:
    """Without pretrained weights nothing is worth freezing, and augmentation stands for the data that are missing."""
    preferred: dict[str, Preference] = {
        "freeze_depth": _at_depth(0.0, situation.stage_sizes),
        "augmentation": lambda value: float(value == "none"),
    }
    stated: dict[str, object] = {
        "unfreezing": {"fixed": {}},
        "loss_weighting": {name: {} for name in ("linear", "cosine", "dann")},
    }
    why = f"the backbone has no pretrained weights: all its stages learn, from {situation.per_class} examples a class"

    def recipe(methods: tuple[str, ...], reason: str, further: Mapping[str, object] | None = None) -> Recipe:
        return Recipe(methods, reason, {**stated, **(further or {})}, preferred, "stages", is_published=False)

    for_absent = [recipe(*each) for each in _for_absent(situation)]
    if situation.target_classes == "subset":
        yield from for_absent
    yield recipe(("mcc", "im", "bnm"), f"{why}, confident on the target after a slow start")
    if situation.target_classes != "subset":
        yield from for_absent
    if situation.domain_accuracy > ALIKE:
        told = f"{situation.domain_accuracy:.0%}"
        yield recipe((*STATISTICS, *ADVERSARIAL), f"{why}, and domains told apart in {told} of cases are aligned")
    yield recipe(("im", "dann_mcc", "dann"), f"{why}, with another method")


def _at_depth(share: float, stage_sizes: Sequence[int], may_freeze_all: bool = True) -> Preference:
    """The depth nearest to this share of the stages; what the backbone has too few stages for comes last."""

    def distance(value: Scalar) -> float:
        assert isinstance(value, int | str)
        try:
            start = stages_that_train(value, None, stage_sizes, "backbone").start
        except InvalidInput:
            return math.inf
        is_too_deep = start == len(stage_sizes) and not may_freeze_all
        return math.inf if is_too_deep else abs(start - share * len(stage_sizes))

    return distance
