"""Class shares of an unlabelled target from one classifier, where only the shares differ between domains."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import InvalidInput
from ray_tl.selection.prior.calibration import Calibration, fit_calibration
from ray_tl.validation.checks import usable, usable_with_labels

Array = NDArray[np.floating]
Labels = NDArray[np.integer]
Vector = NDArray[np.float64]
MAX_STEPS = 2000
TIE = 1e-3  # weight of the source's shares where the confusion can't tell classes apart
SUM_TO_ONE = 1e4  # weight of the constraint in a least-squares fit
FAILURE = 0.05  # delta of RLLS: its bound fails with this probability


def black_box_shift(
    holdout_probs: Array,
    holdout_labels: Labels,
    target_probs: Array,
    source_shares: Array,
    *,
    confusion: Literal["hard", "soft"] = "soft",
) -> Vector:
    """Black-box shift estimation (BBSE): shares by which the source's confusion explains the target's predictions.

    Lipton et al., "Detecting and Correcting for Label Shift with Black Box Predictors", 2018,
    https://arxiv.org/abs/1802.03916. Departures: the shares are fitted as such, with predictions given
    each class in place of joint ones, so that the hold-out's balance doesn't count; they are at least 0 and sum to 1 in
    the fit, and not by clipping; where classes can't be told apart, they stay in the proportions of the source.

    Args:
        holdout_probs: Softmax on held-out source examples, [N, C].
        holdout_labels: True classes of them, [N].
        target_probs: Softmax, [M, C].
        source_shares: Share of each class in the source, [C].
        confusion: Of likeliest classes, or of probabilities.

    Returns:
        Shares of the target, [C].
    """
    holdout, labels, target, shares = _usable(holdout_probs, holdout_labels, target_probs, source_shares)
    given, seen = _confusion(_votes(holdout, confusion), labels, shares), _votes(target, confusion).mean(axis=0)
    return _simplex_fit(given, seen, shares)


def regularised_shift(
    holdout_probs: Array,
    holdout_labels: Labels,
    target_probs: Array,
    source_shares: Array,
    *,
    trust: float = 1.0,
    penalty: float = 0.01,
) -> Vector:
    """Regularised learning of label shift (RLLS): shares that leave the source's only as far as the data demand.

    Azizzadenesheli et al., "Regularized Learning for Domain Adaptation under Label Shifts", ICLR 2019,
    https://arxiv.org/abs/1903.09734: theta = w - 1 minimises |C theta - b| + D |theta| (norms, not
    squares), theta >= -1, with w the ratio of shares, C the joint confusion and b the difference of mean predictions.
    D is `penalty` times the deviation bound of the authors' code for N examples.

    Args:
        holdout_probs: Softmax on held-out source examples, [N, C].
        holdout_labels: True classes of them, [N].
        target_probs: Softmax, [M, C].
        source_shares: Share of each class in the source, [C].
        trust: gamma, in [0, 1]: how much of the estimated shift is believed.
        penalty: >= 0; 0.01 in the authors' code, with which few shifts are held back.

    Returns:
        Shares of the target, [C].
    """
    holdout, labels, target, shares = _usable(holdout_probs, holdout_labels, target_probs, source_shares)
    if not 0 <= trust <= 1:
        raise InvalidInput(f"trust={trust} is no share of the shift to believe; give a number in [0, 1].")
    joint = _confusion(_votes(holdout, "hard"), labels, shares) * shares
    difference = _votes(target, "hard").mean(axis=0) - joint.sum(axis=1)
    log_term = np.log(2 * len(shares) / FAILURE)
    bound = 3 * (2 * log_term / (3 * len(labels)) + np.sqrt(2 * log_term / len(labels)))
    return _normalised(shares * (1 + trust * _least_shift(joint, difference, penalty * bound)))


@dataclass(frozen=True)
class LikelyShares:
    """What maximum likelihood finds.

    Attributes:
        shares: Of the target, [C].
        calibration: Fitted on the source.
        calibrated: Its probabilities on the target, [M, C], as if the target had the shares `reference`.
        reference: Mean calibrated probabilities on the source hold-out, [C].
    """

    shares: Vector
    calibration: Calibration
    calibrated: Vector
    reference: Vector


def maximum_likelihood_shift(
    holdout_probs: Array,
    holdout_labels: Labels,
    target_probs: Array,
    *,
    prior_rows: float = 0.0,
) -> LikelyShares:
    """Maximum likelihood label shift (MLLS): the shares under which the target's predictions are likeliest.

    Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities", Neural Computation 14(1),
    2002, eq. 2.9, on probabilities that `fit_calibration` has made honest; Alexandari et al., 2020,
    https://arxiv.org/abs/1901.06852, who take the mean calibrated probabilities for the source's shares.

    Args:
        holdout_probs: Softmax on held-out source examples, [N, C].
        holdout_labels: True classes of them, [N].
        target_probs: Softmax, [M, C].
        prior_rows: k >= 0: maximum a posteriori with a Dirichlet prior that weighs as much as k target rows with the
            shares of the source; for targets of few rows.
    """
    shape = np.full(np.shape(holdout_probs)[-1], 1 / np.shape(holdout_probs)[-1])
    holdout, labels, target, _ = _usable(holdout_probs, holdout_labels, target_probs, shape)
    if not prior_rows >= 0:
        raise InvalidInput(f"prior_rows={prior_rows} is no number of rows; give 0 for none, or more.")
    calibration = fit_calibration(holdout, labels)
    reference, calibrated = calibration(holdout).mean(axis=0), calibration(target)
    shares = likely_shares(calibrated, reference, prior_rows=prior_rows)
    return LikelyShares(shares, calibration, calibrated, reference)


def likely_shares(
    probabilities: Vector,
    reference: Vector,
    *,
    weights: Vector | None = None,
    prior_rows: float = 0.0,
    start: Vector | None = None,
    tolerance: float = 1e-7,
) -> Vector:
    """Shares of a target by expectation maximisation, from calibrated probabilities.

    Args:
        probabilities: [M, C], for a domain with the shares `reference`.
        reference: Above 0, [C].
        weights: Of the rows, [M]; equal by default.
        prior_rows: As for `maximum_likelihood_shift`.
        start: Shares above 0 from which steps are taken; `reference` by default.
        tolerance: Largest change of a share in the last step.
    """
    reference = np.maximum(reference, np.finfo(float).tiny)
    likelihoods = probabilities / reference
    weights = np.ones(len(probabilities)) if weights is None else weights
    total = weights.sum() + prior_rows
    shares = _normalised(reference if start is None else start)
    for _ in range(MAX_STEPS):
        expected = shares * ((weights / (likelihoods @ shares)) @ likelihoods)
        updated = (expected + prior_rows * reference) / total
        if np.abs(updated - shares).max() < tolerance:
            break
        shares = updated
    return _normalised(updated)


def corrected(probabilities: Array, ratio: Array) -> Vector:
    """Predictions for a domain with other class shares, [M, C]: reweighted and normalised.

    Saerens et al., 2002, eq. 2.4.

    Args:
        probabilities: Softmax, [M, C], for a domain with the source's shares.
        ratio: Share of each class in the target over that in the source, >= 0, [C].
    """
    ratio = np.asarray(ratio, dtype=np.float64)
    if ratio.shape != np.shape(probabilities)[1:] or not (np.isfinite(ratio).all() and (ratio >= 0).all()):
        raise InvalidInput(
            f"ratio={ratio.tolist()} must hold a finite number >= 0 for each of the {np.shape(probabilities)[-1]} "
            "classes; give the target's shares over the source's."
        )
    weighted = usable(np.asarray(probabilities)) * ratio
    sums = weighted.sum(axis=1, keepdims=True)
    possible = ratio / ratio.sum() if ratio.any() else np.full(len(ratio), 1 / len(ratio))
    return np.where(sums > 0, weighted / np.where(sums > 0, sums, 1), possible)


def _usable(holdout: Array, labels: Labels, target: Array, shares: Array) -> tuple[Vector, Labels, Vector, Vector]:
    holdout, labels = usable_with_labels(np.asarray(holdout), np.asarray(labels))
    target, shares = usable(np.asarray(target)), np.asarray(shares, dtype=np.float64)
    if target.shape[1] != holdout.shape[1]:
        raise InvalidInput(
            f"target_probs have {target.shape[1]} classes and holdout_probs {holdout.shape[1]}; "
            "give those of one network."
        )
    return holdout, labels, target, checked_shares(shares, holdout.shape[1])


def checked_shares(shares: Array, num_classes: int) -> Vector:
    """Shares that sum to 1, [C], in float64; raises `InvalidInput` for what are none."""
    wide = np.asarray(shares, dtype=np.float64)
    if wide.shape != (num_classes,) or not (wide >= 0).all() or abs(wide.sum() - 1) > 1e-6:
        raise InvalidInput(
            f"source_shares={wide.tolist()} must hold {num_classes} numbers >= 0 that sum to 1; "
            "give the share of each class among the source labels."
        )
    return wide


def _votes(probabilities: Vector, kind: Literal["hard", "soft"]) -> Vector:
    return probabilities if kind == "soft" else np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]


def _confusion(votes: Vector, labels: Labels, shares: Vector) -> Vector:
    """Mean prediction given each true class, [C predicted, C true]; of a class without examples, that of all."""
    one_hot = np.eye(len(shares))[labels]
    counts = one_hot.sum(axis=0)
    given = (votes.T @ one_hot) / np.maximum(counts, 1)
    return np.where(counts > 0, given, (given @ shares)[:, None] / max(shares[counts > 0].sum(), 1e-12))


def _simplex_fit(given: Vector, seen: Vector, towards: Vector) -> Vector:
    """Shares q with `given` q nearest to `seen`, and hardly more than that near to `towards`."""
    from scipy.optimize import nnls  # half a second, which processes that fit nothing need not wait for

    tie = TIE * np.eye(len(towards))
    rows = np.vstack([SUM_TO_ONE * np.ones(len(towards)), given, tie])
    return _normalised(nnls(rows, np.concatenate([[SUM_TO_ONE], seen, TIE * towards]))[0])


def _least_shift(joint: Vector, difference: Vector, penalty: float) -> Vector:
    """theta >= -1 of the least |joint theta - difference| + penalty |theta|.

    Every minimum lies on the path of ridge regressions |...|^2 + t |theta|^2, which is searched along t.
    """
    from scipy.optimize import minimize_scalar, nnls

    size = joint.shape[1]
    if np.linalg.norm(joint.T @ difference) <= penalty * np.linalg.norm(difference):
        return np.zeros(size)

    def ridge(log_weight: float) -> Vector:
        root = np.exp(log_weight / 2)
        rows = np.vstack([joint, root * np.eye(size)])
        aim = np.concatenate([difference + joint.sum(axis=1), np.full(size, root)])
        return nnls(rows, aim)[0] - 1

    def loss(log_weight: float) -> float:
        theta = ridge(log_weight)
        return float(np.linalg.norm(joint @ theta - difference) + penalty * np.linalg.norm(theta))

    return ridge(minimize_scalar(loss, bounds=(-30.0, 10.0), method="bounded").x)


def _normalised(values: Vector) -> Vector:
    clipped = np.maximum(values, 0)
    return clipped / clipped.sum()
