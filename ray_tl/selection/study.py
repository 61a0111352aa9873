"""The rule of a study."""

import numpy as np

from ray_tl.selection.few_labels import FewLabels
from ray_tl.selection.prior import stated_shares
from ray_tl.selection.rule import SELECTION_RULES, SelectionContext, SelectionRule
from ray_tl.study.records import StudySpec


def rule_of(spec: StudySpec, estimated: tuple[float, ...] | None = None) -> SelectionRule:
    """The rule that a study names, for its domains.

    Args:
        spec: Of the study.
        estimated: Share of each class in the target, [C], where users state none and trials have shown them.
    """
    context = context_of(spec, estimated)
    rule = SELECTION_RULES.create(spec.search.selection.name, spec.search.selection.params, context)
    return rule if spec.data.options.target_labels_for == "training" else FewLabels(rule)


def context_of(spec: StudySpec, estimated: tuple[float, ...] | None = None) -> SelectionContext:
    """What any rule may know of a study; arguments as for `rule_of`."""
    stated = stated_shares(spec.data.options.target_classes, spec.classes, np.array(spec.source_histogram))
    return SelectionContext(
        classes=spec.classes,
        source_shares=spec.source_histogram,
        target_shares=estimated if stated is None else tuple(stated.tolist()),
        source_weight=spec.source_weight,
        num_target=spec.num_target,
        validators=spec.search.validators,
        has_judge=spec.search.has_judge,
    )
