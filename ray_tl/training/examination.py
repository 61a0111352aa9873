"""What every network is measured by, however it came about: evidence, scores, and what the doctor asks for."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_tl.models.domain_norm import domain_of
from ray_tl.models.ensemble import Network
from ray_tl.randomness import some_rows
from ray_tl.selection import SelectionRule
from ray_tl.training.data import EVALUATED, Inputs, TrialData
from ray_tl.training.doctor import ROWS_A_HALF, domain_gap, drift
from ray_tl.training.evaluation import predict_features, predict_probabilities
from ray_tl.validation import SourceEvidence, TargetEvidence
from ray_tl.validation.evidence import centred_logits
from ray_tl.validation.metrics import recalls

Evidence = dict[str, NDArray[np.float32]]


def gather_evidence(model: Network, views: Sequence[Inputs], device: torch.device) -> Evidence:
    """Probabilities of every domain of `EVALUATED`; ranks share the work and all get the whole.

    Args:
        model: Left in the mode in which it was.
        views: Over which probabilities are averaged, at least one.
        device: Where the model is.
    """
    names = [name for name in views[0].rows if name in EVALUATED]
    return {name: mean_probabilities(model, views, name, device) for name in names}


def mean_probabilities(
    model: Network, views: Sequence[Inputs], domain: str, device: torch.device
) -> NDArray[np.float32]:
    """Softmax of a network for all rows of a domain, mean over views, [N, C]; arguments as for `gather_evidence`."""
    each = [
        predict_probabilities(model, view.rows[domain], view.start, device, domain_of(domain), view.change())
        for view in views
    ]
    return each[0] if len(each) == 1 else np.mean(each, axis=0, dtype=np.float32)


def scores_of(evidence: Evidence, data: TrialData, rule: SelectionRule) -> tuple[dict[str, float], list[float]]:
    """Label-free scores by name, and the share of each class among the predictions on the target, [C]."""
    source = SourceEvidence(evidence["source_holdout"], data.holdout_labels)
    probabilities = evidence["target"]
    target = TargetEvidence(probabilities, data.pair.reference, centred_logits(probabilities))
    return rule.observe(source, target), target.histogram().tolist()


def confidence_gap(evidence: Evidence) -> float:
    """Mean confidence on the source hold-out less that on the target, in [-1, 1]."""
    source, target = (float(evidence[name].max(axis=1).mean()) for name in ("source_holdout", "target"))
    return source - target


def histogram_drift(histogram: Sequence[float], data: TrialData) -> float:
    """How far predictions on the target are from the source's classes, in [0, 1]."""
    classes = np.bincount(data.pair.source.labels, minlength=data.pair.num_classes)
    return drift(histogram, (classes / classes.sum()).tolist())


def gap_of_domains(model: Network, inputs: Inputs, device: torch.device, seed: int) -> dict[str, float]:
    """How far the domains are apart by the features of a network; see `doctor.domain_gap`."""
    source, target = (_some_features(model, inputs, name, device, seed) for name in ("source_holdout", "target"))
    return domain_gap(source, target)


def source_recalls(evidence: Evidence, data: TrialData) -> list[float | None]:
    """Share of each class of the source hold-out that is recognised, [C]; `None` for a class that is not there."""
    found = recalls(evidence["source_holdout"], data.holdout_labels)
    return [None if np.isnan(value) else float(value) for value in found]


def _some_features(model: Network, inputs: Inputs, domain: str, device: torch.device, seed: int) -> Tensor:
    rows = inputs.rows[domain]
    chosen = rows[some_rows(len(rows), 2 * ROWS_A_HALF, seed, "doctor", domain)]
    return predict_features(model, chosen, inputs.start, device, domain_of(domain))
