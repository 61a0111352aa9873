"""Which configurations a search tries first, and why: how many examples there are, and how alike the domains are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import is_pretrained
from ray_tl.models.domain_norm import domain_of
from ray_tl.models.freezing import stages_that_train
from ray_tl.models.transfer_model import TransferModel
from ray_tl.randomness import some_rows
from ray_tl.registry import Scalar
from ray_tl.search_space import Preference, Preferring, SearchSpace
from ray_tl.study.records import Advice
from ray_tl.training.data import TrialData
from ray_tl.training.doctor import domain_accuracy
from ray_tl.training.evaluation import predict_features
from ray_tl.training.network import build_model

Recipe = tuple[dict[str, Preference], str]

ROWS = 192  # of each domain that are looked at: a few seconds on a processor
FEW_PER_CLASS, MANY_PER_CLASS = 50, 500
ALIKE, APART = 0.65, 0.85
FITTING = 0.8

FINE_TUNED = {"unfreezing": ("probe_then_fine_tune", "gradual"), "lr_multipliers": ("layer_decay",)}
CONFIDENT = ("im", "bnm", "mcc", "dann_mcc")
ALIGNING = ("jan", "mmd", "deepjdot", "cdan_e", "dann", "coral")
GENTLE = ("mcc", "im", "bnm", "source_only")
SAID: dict[tuple[str, Scalar], str] = {
    ("domain_norm", "separate"): "domains this far apart with statistics of their own",
    ("unfreezing", "probe_then_fine_tune"): "the head first",
    ("unfreezing", "gradual"): "one stage after the other from the head on",
    ("lr_multipliers", "layer_decay"): "shallow stages slowest",
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
    """

    num_source: int
    num_target: int
    num_classes: int
    num_target_labelled: int
    stage_sizes: tuple[int, ...]
    is_pretrained: bool
    domain_accuracy: float
    probe_accuracy: float

    @property
    def per_class(self) -> int:
        return self.num_source // self.num_classes


def examine(config: TrialConfig, data: TrialData) -> Situation:
    """Look at the domains through the backbone of a configuration, before anything is trained.

    Raises:
        InvalidInput: If the backbone can't be built, or its weights can't be had.
    """
    model, pair = build_model(config, data), data.pair
    features = {name: _features(model, data, name, config.seed) for name in ("source", "target")}
    labels = data.labels[some_rows(len(data.labels), ROWS, config.seed, "advisor", "source")]
    few = data.target_labels
    return Situation(
        num_source=len(pair.source),
        num_target=len(pair.target),
        num_classes=pair.num_classes,
        num_target_labelled=0 if few is None else len(few),
        stage_sizes=model.backbone.stage_sizes,
        is_pretrained=is_pretrained(config.backbone),
        domain_accuracy=domain_accuracy(features["source"], features["target"]),
        probe_accuracy=_probe_accuracy(features["source"], labels),
    )


def advise(space: SearchSpace, situation: Situation, limit: int) -> tuple[Advice, ...]:
    """At most `limit` points of the space to try first, each with its reason; what the space lacks is passed over.

    Yosinski et al., "How transferable are features in deep neural networks?", 2014, https://arxiv.org/abs/1411.1792:
    few examples or a near domain speak for frozen features, many for training more of them. Kumar et al., 2022,
    https://arxiv.org/abs/2202.10054: fine-tuning distorts good features out of distribution; a head comes first.
    """
    found: dict[str, Advice] = {}
    for preferred, reason in _recipes(situation):
        trial = Preferring(preferred)
        space.sample(trial)
        key = repr(sorted(trial.taken.items()))
        found.setdefault(key, Advice(params=trial.taken, reason=f"{reason}{_in_words(trial.taken)}."))
    return tuple(found.values())[:limit]


def _recipes(situation: Situation) -> Iterator[Recipe]:
    """From what is most likely to be good, to what might be."""
    if not situation.is_pretrained:
        yield from _from_scratch(situation)
        return
    told = f"{situation.domain_accuracy:.0%}"
    if situation.num_target_labelled:
        yield (
            {**_frozen(situation), "method": _in_order("source_and_target", *CONFIDENT)},
            f"{situation.num_target_labelled} target examples have labels: they join the source, on frozen features",
        )
    yield (
        {**_frozen(situation), "method": _in_order(*CONFIDENT), "adaptor": _in_order("bottleneck")},
        f"pretrained features classify {situation.probe_accuracy:.0%} of unseen source examples with "
        f"{situation.per_class} a class: the head learns on frozen features, made confident on the target",
    )
    if situation.domain_accuracy > ALIKE:
        yield (
            {**_frozen(situation), "method": _in_order(*ALIGNING), "adaptor": _in_order("bottleneck")},
            f"a linear classifier tells the domains apart by their features in {told} of cases: they are aligned",
        )
    yield from _deeper(situation)


def _deeper(situation: Situation) -> Iterator[Recipe]:
    """How much of a pretrained network to train, by how many examples there are and how far the domains are apart."""
    apart, few = situation.domain_accuracy > APART, situation.per_class < FEW_PER_CLASS
    wants_more = situation.per_class >= MANY_PER_CLASS or situation.probe_accuracy < FITTING
    if wants_more:
        depth = 0.0 if situation.per_class >= MANY_PER_CLASS else 0.5
        why = f"{situation.per_class} examples a class, and features that classify {situation.probe_accuracy:.0%}"
    else:
        depth = 0.9 if few else 0.75
        why = f"only {situation.per_class} examples a class, and features that fit ({situation.probe_accuracy:.0%})"
    preferred: dict[str, Preference] = {
        "freeze_depth": _at_depth(depth, situation.stage_sizes),
        "method": _in_order(*GENTLE),
        **{field: _in_order(*names) for field, names in FINE_TUNED.items()},
        **({"domain_norm": _in_order("separate")} if apart else {}),
    }
    share = "most stages" if depth < 0.5 else "deep stages"
    yield preferred, f"{why}: {share} train too"
    if wants_more:
        plain = {**preferred, "method": _in_order("source_only"), "unfreezing": _in_order("fixed")}
        plain["domain_norm"] = _in_order("shared")
        yield plain, f"the plain fine-tune that all others must beat: {why}"


def _from_scratch(situation: Situation) -> Iterator[Recipe]:
    """Without pretrained weights nothing is worth freezing, and augmentation stands for the data that are missing."""
    base = {
        "freeze_depth": _at_depth(0.0, situation.stage_sizes),
        "augmentation": _not("none"),
        "unfreezing": _in_order("fixed"),
        "loss_weighting": _in_order("linear", "cosine", "dann"),
    }
    why = f"the backbone has no pretrained weights: all its stages learn, from {situation.per_class} examples a class"
    yield {**base, "method": _in_order("mcc", "im", "bnm")}, f"{why}, confident on the target after a slow start"
    if situation.domain_accuracy > ALIKE:
        told = f"{situation.domain_accuracy:.0%}"
        yield {**base, "method": _in_order(*ALIGNING)}, f"{why}, and domains told apart in {told} of cases are aligned"
    yield {**base, "method": _in_order("im", "dann_mcc", "dann")}, f"{why}, with another method"


def _in_words(taken: Mapping[str, Scalar]) -> str:
    """What else a point does that its reason rests on; a space may lack it."""
    return "".join(f", {SAID[field, value]}" for field, value in taken.items() if (field, value) in SAID)


def _frozen(situation: Situation) -> dict[str, Preference]:
    return {"freeze_depth": _at_depth(1.0, situation.stage_sizes), "unfreezing": _in_order("fixed")}


def _in_order(*names: str) -> Preference:
    """The first of these that there is; others come after them all."""
    return lambda value: names.index(value) if value in names else len(names)


def _not(name: str) -> Preference:
    return lambda value: float(value == name)


def _at_depth(share: float, stage_sizes: Sequence[int]) -> Preference:
    """The depth nearest to this share of the stages; what the backbone has too few stages for comes last."""

    def distance(value: Scalar) -> float:
        assert isinstance(value, int | str)
        try:
            start = stages_that_train(value, None, stage_sizes, "backbone").start
        except InvalidInput:
            return math.inf
        return abs(start - share * len(stage_sizes))

    return distance


def _features(model: TransferModel, data: TrialData, domain: str, seed: int) -> torch.Tensor:
    rows = data.rows[domain]
    chosen = rows[some_rows(len(rows), ROWS, seed, "advisor", domain)]
    return predict_features(model.to(data.device), chosen, 0, data.device, domain_of(domain))


def _probe_accuracy(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Of logistic regression fitted to two rows in three, on the third."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, classes, third = features.double().numpy(), labels.numpy(), np.arange(len(labels)) % 3 == 2
    if len(np.unique(classes[~third])) < 2:
        return 1.0
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(rows[~third], classes[~third]).score(rows[third], classes[third]))
