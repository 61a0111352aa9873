"""The rule of a study."""

import numpy as np

from ray_tl.selection.few_labels import FewLabels
from ray_tl.selection.prior import stated_shares
from ray_tl.selection.rule import SELECTION_RULES, SelectionContext, SelectionRule
from ray_tl.study.records import StudySpec


def rule_of(spec: StudySpec) -> SelectionRule:
    """The rule that a study names, for its domains."""
    rule = SELECTION_RULES.create(spec.search.selection.name, spec.search.selection.params, context_of(spec))
    return rule if spec.data.options.target_labels_for == "training" else FewLabels(rule)


def context_of(spec: StudySpec) -> SelectionContext:
    """What any rule may know of a study."""
    stated = stated_shares(spec.data.options.target_classes, spec.classes, np.array(spec.source_histogram))
    return SelectionContext(
        classes=spec.classes,
        source_shares=spec.source_histogram,
        target_shares=None if stated is None else tuple(stated.tolist()),
        source_weight=spec.source_weight,
        num_target=spec.num_target,
        validators=spec.search.validators,
        has_judge=spec.search.has_judge,
    )
