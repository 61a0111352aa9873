"""Predictions of the champion, corrected to the class shares that the target is thought to hold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from ray_tl.selection.choice import Choice, EvidenceOf, TrialEvidence
from ray_tl.selection.prior import PriorEstimate, corrected
from ray_tl.study.records import TrialRecord

Vector = NDArray[np.float64]
LEAST_SHARE = 1e-3  # of a class: a logarithm stays finite, and what was thought absent can be predicted
LEAST_PROBABILITY = 1e-6
MOST = 10.0  # nats that are added to a logit
UNCORRECTED = "predictions are not corrected: "


@dataclass(frozen=True)
class Correction:
    """What follows for the predictions of the champion.

    Attributes:
        logits: What is added to each logit, [C]; `None` where predictions stay as they are.
        reason: In words.
    """

    logits: tuple[float, ...] | None
    reason: str


def to_shares(probabilities: NDArray[np.floating], shares: Vector) -> Vector:
    """What to add to the logits so that the mean prediction has these shares, [C], of mean 0.

    In place of the source's shares in Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities", 2002, eq. 2.4, stand those that the network itself predicts: what adapts to the target has left
    the source's. The mean of log-partition functions less `shares` times what is added is convex, with its minimum
    there.

    Args:
        probabilities: Softmax, [M, C].
        shares: Of the target, [C].
    """
    logits, goal = np.log(np.maximum(probabilities.astype(np.float64), LEAST_PROBABILITY)), _possible(shares)

    def loss(added: Vector) -> tuple[float, Vector]:
        moved = logits + added
        return float(logsumexp(moved, axis=1).mean() - goal @ added), softmax(moved, axis=1).mean(axis=0) - goal

    from scipy.optimize import minimize  # half a second, which processes that fit nothing need not wait for

    found = minimize(loss, np.zeros(len(goal)), jac=True, method="L-BFGS-B", bounds=[(-MOST, MOST)] * len(goal)).x
    return found - found.mean()


def by_ratio(shares: Vector, source_shares: Vector) -> Vector:
    """Logarithm of the target's shares over the source's, [C], of mean 0: Saerens et al., 2002, eq. 2.4."""
    found: Vector = np.log(_possible(shares)) - np.log(_possible(source_shares))
    return found - found.mean()


def half_way(probabilities: NDArray[np.floating], prior: PriorEstimate) -> Vector:
    """The mean of `to_shares` and `by_ratio`, [C]."""
    found: Vector = (to_shares(probabilities, prior.shares) + by_ratio(prior.shares, prior.source_shares)) / 2
    return found


def with_correction(probabilities: NDArray[np.floating], logits: Sequence[float]) -> NDArray[np.float32]:
    """Softmax [M, C] of the logits with so much added to each, [C]."""
    return corrected(probabilities, np.exp(np.asarray(logits))).astype(np.float32)


def correction_of(
    prior: PriorEstimate,
    is_stated: bool,
    choose: Callable[[Sequence[TrialRecord], EvidenceOf], Choice | None],
    choice: Choice,
    trials: Sequence[TrialRecord],
    evidence: EvidenceOf,
) -> Correction:
    """The correction of the champion.

    What users state is trusted: predictions move half of the way to these shares and half by their ratio to the
    source's, which gains most of what all of the way gains where shares are exact, and loses little where they are
    guessed. An estimate is so far off under domain shift that its ratio to the source's shares is used alone, and only
    if the rule finds the champion better with it: `tests/benchmarks/prior.py`.

    Args:
        prior: Of the target.
        is_stated: By users; otherwise it is an estimate.
        choose: Of the rule of the study.
        choice: Of the rule; its first candidate is the champion.
        trials: Of the study.
        evidence: What each has left.
    """
    champion = choice.champion
    if not prior.is_beyond_chance:
        same = "the shares that are stated are the source's" if is_stated else "no shift of the shares is beyond chance"
        return Correction(None, f"{UNCORRECTED}{same}.")
    if (why := _why_not(champion, evidence(champion.number))) is not None:
        return Correction(None, f"{UNCORRECTED}{why}.")
    outputs = evidence(champion.number)
    added = by_ratio(prior.shares, prior.source_shares)
    if is_stated:
        added = half_way(outputs.target, prior)
    variant = replace(outputs, target=with_correction(outputs.target, added.tolist()))
    if not is_stated and not _is_better(variant, choose, champion, trials, evidence):
        return Correction(None, f"{UNCORRECTED}the rule of choice finds them no better with the correction.")
    changed = float((variant.target.argmax(axis=1) != outputs.target.argmax(axis=1)).mean())
    reason = f"predictions are corrected to these shares: {changed:.0%} of the target's change class."
    return Correction(tuple(added.tolist()), reason)


def _is_better(
    variant: TrialEvidence,
    choose: Callable[[Sequence[TrialRecord], EvidenceOf], Choice | None],
    champion: TrialRecord,
    trials: Sequence[TrialRecord],
    evidence: EvidenceOf,
) -> bool:
    """Whether the rule prefers the corrected predictions to the champion's, as those of one more trial.

    Of its scores only the accuracy on the source stands, which no correction to a target is meant to raise.
    """
    number = max(trial.number for trial in trials) + 1
    last = champion.last
    assert last is not None
    counts = np.bincount(variant.target.argmax(axis=1), minlength=variant.target.shape[1])
    known = {name: last.scores[name] for name in ("source_accuracy",) if name in last.scores}
    changed = last.model_copy(update={"histogram": (counts / counts.sum()).tolist(), "scores": known})
    added = replace(champion, number=number, epochs=[*champion.epochs[:-1], changed], is_baseline=False)
    found = choose([*trials, added], lambda which: variant if which == number else evidence(which))
    assert found is not None
    order = [item.trial.number for item in found.candidates]
    rejected = {item.trial.number for item in found.candidates if item.rejected is not None}
    return number not in rejected and order.index(number) < order.index(champion.number)


def _why_not(champion: TrialRecord, outputs: TrialEvidence) -> str | None:
    """Why nothing can be added to the logits of a trial's network; `None` if it can."""
    if champion.config.test_time_augmentation.name != "none":
        return "they are means over several views"
    if outputs.final is None or outputs.final.head is None:
        return "the champion has no linear head"
    return None


def _possible(shares: Vector) -> Vector:
    floored = np.maximum(np.asarray(shares, dtype=np.float64), LEAST_SHARE)
    return floored / floored.sum()
