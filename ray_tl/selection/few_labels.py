"""A few true labels of the target, joined with the label-free merit of a rule: neither decides alone.

The model is that of Fay and Herriot, "Estimates of Income for Small Places", 1979,
https://doi.org/10.2307/2286322: an accuracy that few examples measure is drawn towards the line on which the merit
predicts it, the more, the noisier it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ray_tl.selection.choice import Candidate, Choice, EvidenceOf, LabelledPredictions, Verdict
from ray_tl.selection.margins import ONE_SIDED_5_PERCENT
from ray_tl.selection.rule import Scores, SelectionRule
from ray_tl.study.records import TrialRecord
from ray_tl.validation import SourceEvidence, TargetEvidence

LEAST_TRIALS = 4  # a line through two points leaves nothing by which to judge how far trials lie from it
LEAST_EXAMPLES = 2
LARGEST_SPREAD, NUM_SPREADS = 0.5, 101  # standard deviations t that are tried: none of numbers in [0, 1] is larger

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimates:
    """Accuracies of I trials, as labels and merit together have them.

    Attributes:
        accuracies: [I], near the mean of the trials where nothing is known.
        ahead: Of another trial in accuracy, [I].
        noise: Standard deviations of `ahead`, [I].
        trust: Weight of the labels, in [0, 1]; the rest is that of the merit.
    """

    accuracies: Array
    ahead: Array
    noise: Array
    trust: float

    @property
    def is_ahead(self) -> NDArray[np.bool_]:
        """Beyond chance, one-sided at 5 %, [I]."""
        found: NDArray[np.bool_] = self.ahead > ONE_SIDED_5_PERCENT * self.noise
        return found

    @property
    def is_behind(self) -> NDArray[np.bool_]:
        """Beyond chance, one-sided at 5 %, [I]."""
        found: NDArray[np.bool_] = self.ahead < -ONE_SIDED_5_PERCENT * self.noise
        return found


def estimate(hits: NDArray[np.bool_], merits: Array, other: int = 0) -> Estimates:
    """Accuracies on few examples, drawn towards what the merit makes of them.

    y_i = theta_i + e_i and theta_i = a + b m_i + v_i, with Var(e_i) = s^2 and Var(v_i) = t^2; the estimate is
    g y_i + (1 - g) (a + b m_i) with g = t^2 / (t^2 + s^2).

    All trials are scored on the same examples, so that how easy these are moves all y_i alike and says nothing of a
    difference. What counts is the noise of y_i less the mean over trials: for each trial the variance over examples of
    (hit - mean hit of all trials on this example), over the number of examples. Of few examples a trial's own variance
    is hardly known, 0 for one that is always right where most are, so s^2 is the mean of all trials, times I / (I - 1)
    for the part that the mean took away. Errors that are left are taken as independent: trials of one method err alike,
    and few examples can't tell how much.

    b is least squares and no less than 0: the merit is never evidence against itself. t is not a single moment
    estimate, which is 0 in half of all cases where labels are few and would switch them off: estimates are averaged
    over t by its likelihood, uniform in [0, 1/2] beforehand (Gelman, "Prior Distributions for Variance Parameters in
    Hierarchical Models", 2006). Examples count alike: where as many of each class were drawn and the classes of the
    target are uneven, this is a class-balanced accuracy, and is left so.

    Args:
        hits: Whether each trial predicts each example rightly, [I, N], I >= 4, N >= 2.
        merits: Label-free, higher is better, [I].
        other: Place of the trial that the others are compared with.
    """
    num_trials, num_examples = hits.shape
    paired = hits - hits.mean(axis=0)
    measured = paired.mean(axis=1)
    noise = float(paired.var(axis=1, ddof=1).sum()) / (num_trials - 1) / num_examples
    noise = max(noise, 1e-9)  # all trials alike on every example
    centred = merits - merits.mean()
    line, sloped = _line(measured, centred)
    spreads = np.linspace(0, LARGEST_SPREAD, NUM_SPREADS) ** 2
    weights = _likelihoods(float(((measured - line) ** 2).sum()), num_trials - 2, noise, spreads)
    trust = spreads / (spreads + noise)
    each = np.outer(trust, measured) + np.outer(1 - trust, line)
    ahead = each - each[:, [other]]
    mean_ahead = weights @ ahead
    of_line = np.outer((1 - trust) ** 2 * (spreads + noise), (sloped - sloped[other]) ** 2)
    variance = weights @ (2 * (trust * noise)[:, None] + of_line + (ahead - mean_ahead) ** 2)
    variance[other] = 0
    return Estimates(hits.mean() + weights @ each, mean_ahead, np.sqrt(variance), float(weights @ trust))


def _line(measured: Array, centred: Array) -> tuple[Array, Array]:
    """What the merit predicts, [I]; and the merits in units of which the slope has variance 1, [I]."""
    squares = float((centred**2).sum())
    if squares < 1e-12:
        return np.zeros_like(measured), np.zeros_like(centred)
    slope = max(0.0, float(centred @ measured) / squares)
    return slope * centred, centred / np.sqrt(squares)


def _likelihoods(residual: float, freedom: int, noise: float, spreads: Array) -> Array:
    """Of each t^2, with a and b integrated out, summing to 1.

    Args:
        residual: Sum of squares about the line, on `freedom` degrees.
        freedom: I - 2.
        noise: s^2.
        spreads: t^2, [S].
    """
    logs = -(freedom * np.log(spreads + noise) + residual / (spreads + noise)) / 2
    weights = np.exp(logs - logs.max())
    found: Array = weights / weights.sum()
    return found


class FewLabels:
    """A rule of choice, and a few labelled target examples beside it, on which no trial was trained.

    The champion is the trial of the highest estimated accuracy among those that no guard rejects. Source-only is
    replaced by what is ahead of it beyond chance, one-sided at 5 %, or by what the rule itself has put ahead of
    source-only and is not behind it beyond chance.

    Args:
        rule: Gives merits and guards, and says what is looked at in each epoch and what is maximised.
    """

    def __init__(self, rule: SelectionRule) -> None:
        self._rule = rule

    def observe(self, source: SourceEvidence, target: TargetEvidence) -> Scores:
        return self._rule.observe(source, target)

    def objective(self, scores: Mapping[str, float], histogram: Sequence[float]) -> float:
        return self._rule.objective(scores, histogram)

    def choose(self, trials: Sequence[TrialRecord], evidence: EvidenceOf) -> Choice | None:
        choice = self._rule.choose(trials, evidence)
        if choice is None:
            return None
        return with_labels(choice, {number: evidence(number).labelled for number in choice.merits})

    def compare(
        self, trials: Sequence[TrialRecord], evidence: EvidenceOf, old: TrialRecord, new: TrialRecord
    ) -> Verdict:
        return self._rule.compare(trials, evidence, old, new)


def with_labels(choice: Choice, given: Mapping[int, LabelledPredictions | None]) -> Choice:
    """A label-free choice in the order of accuracies that labels and its merits give together.

    Args:
        choice: Of a rule. It stays as it is, with a reason, where labels can't join in.
        given: Predictions by number of the trial, of those that no guard rejects; `None` of a trial that left none.
    """
    sound = [item for item in choice.candidates if item.rejected is None]
    few = {number: each for number, each in given.items() if each is not None}
    lacking = _lacking(few, len(sound))
    if lacking is None:
        return _joined(choice, sound, few)
    return Choice(choice.candidates, f"without the labelled target examples, because {lacking}: {choice.reason}")


def _lacking(few: Mapping[int, LabelledPredictions], num_sound: int) -> str | None:
    """Why labels can't join in; `None` if they can."""
    if num_sound < LEAST_TRIALS:
        passing = "1 trial passes" if num_sound == 1 else f"{num_sound} trials pass"
        return f"{passing} the guards and {LEAST_TRIALS} are needed to weigh them"
    if len(few) < num_sound:
        return f"{num_sound - len(few)} of {num_sound} trials left no predictions on them"
    num_examples = len(next(iter(few.values())).labels)
    return None if num_examples >= LEAST_EXAMPLES else f"there is {num_examples} and {LEAST_EXAMPLES} are needed"


def _joined(choice: Choice, sound: Sequence[Candidate], few: Mapping[int, LabelledPredictions]) -> Choice:
    """The choice in order of estimated accuracy: the merits of the rule as the line, and the labels.

    Args:
        choice: Of the rule.
        sound: Its candidates that no guard rejects, in its order.
        few: By number of the trial, of all of them.
    """
    numbers = [item.trial.number for item in sound]
    baseline = next((place for place, item in enumerate(sound) if item.trial.is_baseline), None)
    hits = np.stack([few[number].hits for number in numbers])
    found = estimate(hits, np.array([item.merit for item in sound]), baseline or 0)
    before = np.arange(len(sound)) < (len(sound) if baseline is None else baseline)
    may_win = found.is_ahead | (before & ~found.is_behind)
    places = {number: place for place, number in enumerate(numbers)}

    def place(item: Candidate) -> tuple[bool, bool, bool, float, int]:
        at = places[item.trial.number]
        stays_behind = baseline is not None and at != baseline and not may_win[at]
        return False, stays_behind, at == baseline, -float(found.accuracies[at]), item.trial.number

    order = sorted(sound, key=place)
    said = _reason(order, places, found, few, baseline)
    estimated = [replace(item, merit=float(found.accuracies[places[item.trial.number]])) for item in order]
    rejected = [item for item in choice.candidates if item.rejected is not None]
    without = f"Without labels it would be trial {choice.champion.number}: {choice.reason}"
    return Choice((*estimated, *rejected), f"{said} {without}")


def _reason(
    order: Sequence[Candidate],
    places: Mapping[int, int],
    found: Estimates,
    few: Mapping[int, LabelledPredictions],
    baseline: int | None,
) -> str:
    """Why the first is first, with the counts that users can check."""
    first = order[0]
    of_first = few[first.trial.number]
    weight = f"labels count for {found.trust:.0%}, label-free merit for the rest"
    if baseline is None or (first.trial.is_baseline and len(order) == 1):
        return f"of {of_first.in_words()} it predicts {_told(first, places, found, few)}; {weight}."
    if first.trial.is_baseline:
        best = max(order[1:], key=lambda item: found.accuracies[places[item.trial.number]])
        return (
            f"source-only stays: of {of_first.in_words()} it predicts {_told(first, places, found, few)}, and no trial "
            f"is ahead of it beyond chance (best is trial {best.trial.number} with {_told(best, places, found, few)}, "
            f"ahead by {_interval(found, places[best.trial.number])}); {weight}."
        )
    source_only = next(item for item in order if item.trial.is_baseline)
    return (
        f"of {of_first.in_words()} it predicts {_told(first, places, found, few)}, source-only "
        f"{_told(source_only, places, found, few)}: ahead by {_interval(found, places[first.trial.number])}; {weight}."
    )


def _told(item: Candidate, places: Mapping[int, int], found: Estimates, few: Mapping[int, LabelledPredictions]) -> str:
    number = item.trial.number
    right = int(few[number].hits.sum())
    return f"{right} rightly (estimated accuracy {found.accuracies[places[number]]:.1%})"


def _interval(found: Estimates, at: int) -> str:
    ahead, reach = 100 * found.ahead[at], 100 * ONE_SIDED_5_PERCENT * found.noise[at]
    return f"{ahead:.1f} points, 90 % interval {ahead - reach:.1f} to {ahead + reach:.1f}"
