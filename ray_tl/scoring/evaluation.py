"""A finished search, scored on true classes of its target."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.domains import DomainPair
from ray_tl.errors import InvalidInput, StudyBusy, storage_failure
from ray_tl.planning.plan import load_places
from ray_tl.scoring.known import KnownTarget, known_target
from ray_tl.scoring.records import Expected, LedgerRow, record
from ray_tl.selection.correction import with_correction
from ray_tl.selection.oracle import PairedDifference, Rows, Score, compare, hits, score, true_labels
from ray_tl.study.correction import recorded_correction
from ray_tl.study.damage import broken_study
from ray_tl.study.records import TrialRecord
from ray_tl.study.store import CHAMPION_FILE, StudyStore
from ray_tl.training.data import recorded_rows
from ray_tl.training.files import TrialFiles

AS_PROMOTED = "as it is promoted: its predictions are corrected to the class shares of the target."
AS_IT_WAS = "as it was; without --trial its predictions are corrected to the class shares of the target."


@dataclass(frozen=True)
class Standing:
    """Where a trial stands among those at full fidelity, by true accuracy.

    Attributes:
        best: Number of the best of them; of equal ones the first.
        best_accuracy: In [0, 1].
        regret_points: By how many points of accuracy the trial is worse than the best.
        rank: 1 for the best; equal ones share a rank.
        num_ranked: Trials at full fidelity.
    """

    best: int
    best_accuracy: float
    regret_points: float
    rank: int
    num_ranked: int


@dataclass(frozen=True)
class Evaluation:
    """How good a trial is on true classes of the target.

    Attributes:
        trial: Number; that of the champion unless another was asked for.
        domain: `target` or `target_test`.
        labels: Where the true classes are from.
        num_labels: Rows of the domain whose class is known and that count.
        num_rows: All rows of the domain.
        classes: Names, [C].
        score: Of the trial.
        source_only: Number of the source-only trial, and its score; `None` where it left no predictions.
        difference: The trial's accuracy less source-only's, on the same rows.
        standing: Among the trials; `None` where none has reached full fidelity.
        expected: What the search expected of the champion without labels, if it said so.
        accuracies: True accuracy by number of every trial that left predictions.
        notes: What users should know of the labels.
    """

    study: str
    trial: TrialRecord
    is_champion: bool
    domain: str
    labels: str
    num_labels: int
    num_rows: int
    classes: tuple[str, ...]
    score: Score
    source_only: tuple[int, Score] | None
    difference: PairedDifference | None
    standing: Standing | None
    expected: Expected | None
    accuracies: dict[int, float]
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        of_source = None
        if self.source_only is not None and self.difference is not None:
            number, baseline = self.source_only
            of_source = {
                "trial": number,
                "accuracy": baseline.accuracy.summary(),
                "difference": self.difference.difference.summary(),
                "only_trial_right": self.difference.only_first,
                "only_source_only_right": self.difference.only_second,
                "p_value": self.difference.p_value,
            }
        return {
            "study": self.study,
            "trial": self.trial.number,
            "is_champion": self.is_champion,
            "method": self.trial.config.method.name,
            "domain": self.domain,
            "labels": self.labels,
            "num_labels": self.num_labels,
            "num_rows": self.num_rows,
            "accuracy": self.score.accuracy.summary(),
            **self.score.further,
            "recalls": dict(zip(self.classes, self.score.recalls, strict=True)),
            "support": dict(zip(self.classes, self.score.support, strict=True)),
            "confusion": [list(row) for row in self.score.confusion],
            "source_only": of_source,
            "standing": None if self.standing is None else vars(self.standing),
            "expected": None if self.expected is None else self.expected.summary(self.score.accuracy.value),
            "accuracies": self.accuracies,
            "notes": list(self.notes),
        }


def evaluate(
    store: StudyStore,
    labels: str,
    trial: int | None = None,
    on: str | None = None,
    pair: DomainPair | None = None,
) -> Evaluation:
    """Score a trial of a study on true classes of its target, and put the champion's score into the ledger.

    The data of the study are read again, as the search read them. The champion is scored as it is promoted, its
    predictions corrected if the study found that they should be; a trial by number as it was, the champion's too.

    Args:
        store: The study, which no process may be searching now.
        labels: Place of the true classes: see `read_given`.
        trial: Number; by default the champion as it is promoted.
        on: `target` or `target_test`; by default, whichever the labels belong to.
        pair: The domains of the study, where they have been read already.

    Raises:
        InvalidInput: If the labels can't be read, belong to no example or contradict each other, the data have changed,
            or there is no champion yet.
        StudyBusy: If the study is being searched.
    """
    spec = store.spec
    if store.is_searched():
        raise StudyBusy(f"study={spec.name!r} is being searched; its target's labels are read when it has ended.")
    champion, expected = _champion(store)
    number = champion if trial is None else trial
    if number is None:
        raise InvalidInput(
            f"study={spec.name!r} has no champion yet; finish it with: ray-tl search --resume {spec.name}, or give a "
            "--trial."
        )
    trials = {each.number: each for each in store.trials()}
    chosen = trials[number] if number in trials else store.trial(number)
    known = known_target(store.spec, labels, on, pair or _read_again(store))
    correction = None if champion is None else recorded_correction(store, champion)
    scores = _scores(store, trials.values(), known)
    if number not in scores:
        raise InvalidInput(
            f"trial={number} is {chosen.state} and left no predictions on {known.domain}; choose from "
            f"{', '.join(map(str, scores)) or 'none'}."
        )
    found = _evaluation(store, chosen, scores, trials, known)
    if champion is None or champion not in scores:
        return found
    promoted = scores if correction is None else {**scores, champion: scores[champion].corrected(correction)}
    best = replace(_evaluation(store, trials[champion], promoted, trials, known), is_champion=True, expected=expected)
    is_champion = number == champion
    if trial is None or (is_champion and correction is None):
        found = best
    if is_champion and correction is not None:
        how = AS_PROMOTED if trial is None else AS_IT_WAS
        found = replace(found, is_champion=True, notes=(*found.notes, f"trial {champion} {how}"))
    return _recorded(store, found, _row(store, best, _num_searched(trials.values())))


def _champion(store: StudyStore) -> tuple[int | None, Expected | None]:
    content: Any = store.read_json(CHAMPION_FILE)
    if content is None:
        return None, None
    try:
        stated = content.get("expected")
        return int(content["trial"]), None if stated is None else Expected.of(stated)
    except (KeyError, TypeError, ValueError) as error:
        raise store.unreadable(CHAMPION_FILE, f"{type(error).__name__}: {error}") from error


def _read_again(store: StudyStore) -> DomainPair:
    spec = store.spec
    pair = load_places(spec.data, spec.search.seed).pair
    if pair.fingerprint() != spec.data_fingerprint:
        raise InvalidInput(
            f"study={spec.name!r} was searched on other data than {spec.data.source!r} and {spec.data.target!r} hold "
            "now, so its predictions can't be told apart; restore the data."
        )
    return pair


@dataclass(frozen=True)
class _Scored:
    """Predictions of a trial on the rows whose classes are known."""

    probabilities: NDArray[np.float32]
    labels: Rows
    rows: Rows

    def corrected(self, correction: Sequence[float]) -> "_Scored":
        return replace(self, probabilities=with_correction(self.probabilities, correction))

    @property
    def accuracy(self) -> float:
        return float(hits(self.probabilities, self.labels).mean())


def _scores(store: StudyStore, trials: Iterable[TrialRecord], known: KnownTarget) -> dict[int, _Scored]:
    """By number, of the trials that left predictions on the domain."""
    found = {}
    for trial in trials:
        files = TrialFiles.of(store, trial.number)
        try:
            rows, probabilities = _recorded_rows(files, known.domain, len(known.target))
        except FileNotFoundError:
            continue
        except (BadZipFile, EOFError, KeyError, ValueError) as error:
            raise broken_study(store.folder, f"{files.evidence} is not what was written ({error})") from error
        if len(rows) != len(probabilities) or len(rows) > len(known.target):
            raise broken_study(store.folder, f"{files.evidence} has predictions on other rows than {known.domain} has")
        places, labels = true_labels(rows, known.target.ids, store.spec.classes, known.oracle)
        if len(places):
            found[trial.number] = _Scored(probabilities[places], labels, rows[places])
    return found


def _recorded_rows(files: TrialFiles, domain: str, num_rows: int) -> tuple[Rows, NDArray[np.float32]]:
    """Which rows of a domain a trial recorded predictions on, [R], and these as softmax outputs, [R, C].

    Args:
        files: Of the trial.
        domain: `target` or `target_test`.
        num_rows: Of the whole domain.
    """
    probabilities = files.load_evidence()[domain]
    some = recorded_rows(domain, num_rows, probabilities.shape[1])
    return (np.arange(len(probabilities)) if some is None else some.numpy()), probabilities


def _evaluation(
    store: StudyStore,
    trial: TrialRecord,
    scored: Mapping[int, _Scored],
    trials: Mapping[int, TrialRecord],
    known: KnownTarget,
) -> Evaluation:
    own = scored[trial.number]
    baseline = next((each.number for each in trials.values() if each.is_baseline and each.number in scored), None)
    source_only, difference = None, None
    if baseline is not None:
        other = scored[baseline]
        source_only = baseline, score(other.probabilities, other.labels)
        difference = _difference(own, other)
    return Evaluation(
        study=store.spec.name,
        trial=trial,
        is_champion=False,
        domain=known.domain,
        labels=known.stated,
        num_labels=len(own.labels),
        num_rows=len(known.target),
        classes=store.spec.classes,
        score=score(own.probabilities, own.labels),
        source_only=source_only,
        difference=difference,
        standing=_standing(own.accuracy, scored, trials),
        expected=None,
        accuracies={number: each.accuracy for number, each in scored.items()},
        notes=known.notes,
    )


def _difference(one: _Scored, other: _Scored) -> PairedDifference:
    _, first, second = np.intersect1d(one.rows, other.rows, return_indices=True)
    return compare(hits(one.probabilities, one.labels)[first], hits(other.probabilities, other.labels)[second])


def _standing(accuracy: float, scored: Mapping[int, _Scored], trials: Mapping[int, TrialRecord]) -> Standing | None:
    finished = {number: each.accuracy for number, each in scored.items() if trials[number].at_full_fidelity}
    if not finished:
        return None
    best = max(finished, key=lambda number: finished[number])
    better = sum(other > accuracy for other in finished.values())
    return Standing(best, finished[best], 100 * (finished[best] - accuracy), 1 + better, len(finished))


def _num_searched(trials: Iterable[TrialRecord]) -> int:
    """Trials of the search, without refits."""
    return sum(trial.refit_of is None for trial in trials)


def _row(store: StudyStore, champion: Evaluation, num_trials: int) -> LedgerRow:
    standing, data = champion.standing, store.spec.data
    return LedgerRow(
        study=champion.study,
        source=data.source,
        target=data.target,
        trials=num_trials,
        domain=champion.domain,
        labels=champion.labels,
        num_labels=champion.num_labels,
        source_only=None if champion.source_only is None else champion.source_only[1].accuracy.value,
        champion=champion.score.accuracy.value,
        champion_trial=champion.trial.number,
        method=champion.trial.config.method.name,
        best=None if standing is None else standing.best_accuracy,
        regret_points=None if standing is None else standing.regret_points,
        rank=None if standing is None else standing.rank,
        num_ranked=0 if standing is None else standing.num_ranked,
        expected=champion.expected,
        evaluated_at=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def _recorded(store: StudyStore, found: Evaluation, row: LedgerRow) -> Evaluation:
    """The evaluation, once its row is in the ledger; where nothing can be written, it says so."""
    try:
        record(store, row)
    except OSError as error:
        return replace(found, notes=(*found.notes, f"it is not in the ledger: {storage_failure(error)}"))
    return found
