"""What would the loss on the source be if it were spread as the target is?"""

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import Unavailable
from ray_tl.validation.checks import (
    OF_THE_HOLDOUT,
    OF_THE_TARGET,
    OF_THE_TRAINING,
    at_rows,
    needed,
    usable_features,
    usable_with_labels,
)
from ray_tl.validation.evidence import SourceEvidence, TargetEvidence
from ray_tl.validation.validators import VALIDATORS

DOMAIN_ROWS = 5000  # of each domain
HELD_OUT = 5  # one row in so many chooses the penalty
PENALTIES = (100.0, 10.0, 1.0, 0.1)
LARGEST_LOG_ODDS = 30.0  # weights up to 1e13, so that their squares stay finite

Array = NDArray[np.float64]


def importance_weights(training: Array, target: Array, holdout: Array) -> Array:
    """How much denser the target is than the source at held-out source examples, [N], at least 0; about 1 on average.

    You et al., "Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation", 2019,
    https://proceedings.mlr.press/v97/you19a.html, section 3.1: (S / M) p(target | x) / p(source | x), by a classifier
    that tells the domains apart, of several penalties the one that does so best on a fifth of the rows. Theirs is a
    network of two layers; here it is logistic regression on standard scores, which can't tell apart what training data
    alone tells apart.

    Args:
        training: Features of source examples that the network was trained on, [S, D], S >= 2.
        target: [M, D], M >= 2.
        holdout: Features of source examples that it was not trained on, [N, D].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (source_fit, source_test), (target_fit, target_test) = _split(training), _split(target)
    rows, is_target = _joined(source_fit, target_fit)
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=1000)).fit(rows, is_target)
        for penalty in PENALTIES
    ]
    best = max(models, key=lambda model: model.score(*_joined(source_test, target_test)))
    log_odds = np.clip(best.decision_function(holdout), -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)
    weights: Array = np.exp(log_odds) * (len(source_fit) / len(target_fit))
    return weights


def weighted_risk(weights: Array, losses: Array) -> float:
    """Mean of weight times loss.

    Sugiyama et al., "Covariate Shift Adaptation by Importance Weighted Cross Validation", 2007,
    https://www.jmlr.org/papers/v8/sugiyama07a.html.
    """
    return float(np.mean(weights * losses))


def control_variate_risk(weights: Array, losses: Array) -> float:
    """The same less what the weights' own mean is off by: mean(w l) + eta mean(w) - eta, eta = -Cov(w l, w) / Var(w).

    You et al., 2019, algorithm 1, "DEV". Where all weights are equal, eta is 0.

    Args:
        weights: [N].
        losses: [N].
    """
    variance = np.var(weights, ddof=1) if len(weights) > 1 else 0.0
    eta = -np.cov(weights * losses, weights)[0, 1] / variance if variance > 0 else 0.0
    return weighted_risk(weights, losses) + float(eta * (np.mean(weights) - 1))


def normalised(weights: Array) -> Array:
    """Weights over their largest, moved to a mean of 1, [N].

    DEVN with max normalisation of Musgrave et al., "Three New Validators and a Large-Scale Benchmark Ranking for
    Unsupervised Domain Adaptation", 2022, https://arxiv.org/abs/2208.07360, as in their code. With a mean of 1 the
    control variate vanishes: their DEVN is mean(w l).
    """
    shares = weights / weights.max()
    return shares - shares.mean() + 1


def _split(rows: Array) -> tuple[Array, Array]:
    order = np.random.default_rng(0).permutation(len(rows))
    num_test = max(1, len(rows) // HELD_OUT)
    return rows[order[num_test:]], rows[order[:num_test]]


def _joined(source: Array, target: Array) -> tuple[Array, NDArray[np.bool_]]:
    return np.concatenate([source, target]), np.repeat([False, True], [len(source), len(target)])


def _weights_and_losses(name: str, source: SourceEvidence, target: TargetEvidence) -> tuple[Array, Array]:
    """Of held-out source examples, [N]; the loss is the cross-entropy, of at most 15.9 nats as in `metrics.nll`."""
    rows, holdout = usable_features(needed(name, OF_THE_HOLDOUT, source.features), DOMAIN_ROWS)
    _, training = usable_features(needed(name, OF_THE_TRAINING, source.training), DOMAIN_ROWS)
    _, targets = usable_features(needed(name, OF_THE_TARGET, target.features), DOMAIN_ROWS)
    if min(len(training), len(targets)) < 2:
        raise Unavailable(f"validator {name!r} tells domains apart by two examples of each or more; leave it out.")
    probabilities, labels = usable_with_labels(source.probabilities, source.labels)
    of_truth = at_rows(probabilities[np.arange(len(labels)), labels], rows)
    losses = -np.log(np.maximum(of_truth, np.finfo(np.float32).eps))
    return importance_weights(training, targets, holdout), losses


@VALIDATORS.register("importance_weighted_risk")
class ImportanceWeightedRisk:
    """Cross-entropy on held-out source examples, each weighted by how much denser the target is there."""

    higher_is_better = False
    needs_end = True

    def score(self, source: SourceEvidence, target: TargetEvidence) -> float:
        return weighted_risk(*_weights_and_losses("importance_weighted_risk", source, target))


@VALIDATORS.register("dev")
class Dev:
    """Deep embedded validation: importance-weighted cross-entropy with a control variate."""

    higher_is_better = False
    needs_end = True

    def score(self, source: SourceEvidence, target: TargetEvidence) -> float:
        return control_variate_risk(*_weights_and_losses("dev", source, target))


@VALIDATORS.register("devn")
class Devn:
    """Deep embedded validation with weights that are normalised by their largest."""

    higher_is_better = False
    needs_end = True

    def score(self, source: SourceEvidence, target: TargetEvidence) -> float:
        weights, losses = _weights_and_losses("devn", source, target)
        return control_variate_risk(normalised(weights), losses)
