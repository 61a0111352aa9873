"""Other label-free scores for a study that has been searched, from what its trials left; nothing runs again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from zipfile import BadZipFile

from ray_tl.errors import InvalidInput, TrialFailed, Unavailable, UnknownName
from ray_tl.neighbours import NEIGHBOURS_FILE, LabelledSpace
from ray_tl.registry import did_you_mean
from ray_tl.search_space import SearchOptions, validated
from ray_tl.selection import Choice, TrialEvidence, rule_of
from ray_tl.selection.by_validators import pooled
from ray_tl.selection.pool import guarded
from ray_tl.selection.study import context_of
from ray_tl.study.damage import broken_study
from ray_tl.study.records import StudySpec, TrialRecord
from ray_tl.study.store import CHAMPION_FILE, StudyStore
from ray_tl.training.files import TrialFiles
from ray_tl.validation import VALIDATORS, PoolEvidence, TargetEvidence, looks_at_source, score_all
from ray_tl.validation.evidence import centred_logits
from ray_tl.yaml_files import read_yaml_value

TRAINED_ON = "a refit is trained on all of the source, what was held out included"
Scores = dict[str, float]
Progress = Callable[[int, int], None]
"""Is told how many trials are scored, and of how many."""


@dataclass(frozen=True)
class Gap:
    """A score that some trials have not.

    Attributes:
        trials: Numbers of those that lack it.
        reason: Why, in words.
    """

    validator: str
    trials: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Rescoring:
    """Trials at full fidelity by validators that may not have been asked during the search.

    Attributes:
        study: Its name.
        trials: In order of their numbers.
        champion: Number of the trial that the search chose; `None` if it has not ended.
        scores: By number of the trial and validator.
        gaps: What could not be computed.
        selection: Another rule of choice as it was stated; empty if there is none.
        choice: Of that rule; `None` without one.
    """

    study: str
    trials: tuple[TrialRecord, ...]
    champion: int | None
    scores: dict[int, Scores]
    gaps: tuple[Gap, ...]
    selection: str = ""
    choice: Choice | None = None

    @property
    def validators(self) -> list[str]:
        """That scored at least one trial, in the order in which they were named."""
        return list(dict.fromkeys(name for scores in self.scores.values() for name in scores))

    def best(self, validator: str) -> list[int]:
        """Numbers of the trials with the best score; several if they are equal."""
        sign = 1 if VALIDATORS.create(validator, {}).higher_is_better else -1
        values = {number: sign * scores[validator] for number, scores in self.scores.items() if validator in scores}
        return [number for number, value in values.items() if value == max(values.values())]

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "study": self.study,
            "champion": self.champion,
            "trials": [
                {
                    "trial": trial.number,
                    "method": trial.config.method.name,
                    "refit_of": trial.refit_of,
                    "is_champion": trial.number == self.champion,
                    "is_source_only": trial.is_baseline,
                    "scores": self.scores[trial.number],
                }
                for trial in self.trials
            ],
            "best": {name: self.best(name) for name in self.validators},
            "higher_is_better": {name: VALIDATORS.create(name, {}).higher_is_better for name in self.validators},
            "unavailable": [
                {"validator": gap.validator, "trials": list(gap.trials), "reason": gap.reason} for gap in self.gaps
            ],
            "selection": None if self.choice is None else _chosen(self.selection, self.choice),
        }


def rescore(
    store: StudyStore,
    validators: Sequence[str] = (),
    selection: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Rescoring:
    """Score every trial at full fidelity anew, from the evidence that it left.

    Validators that compare trials do so among those that no guard rejects, as a rule of choice does. Those that look at
    the source hold-out don't score a refit, which was trained on it.

    Args:
        store: The study; nothing of it is changed.
        validators: Names; all that the evidence allows by default.
        selection: A rule of choice as in a search-space file, `validators: {names: [ensv]}` or a name alone.
        progress: Called after each trial.

    Raises:
        UnknownName: If a validator or the rule is not known.
        InvalidInput: If the rule is not sound for this study, or no trial has reached full fidelity.
        BrokenStudy: If evidence can't be read.
    """
    names = _known(validators)
    other = None if selection is None else _with_rule(store.spec, selection)
    rule = None if other is None else rule_of(other)
    trials = [trial for trial in store.trials() if trial.at_full_fidelity]
    if not trials:
        raise InvalidInput(
            f"study={store.spec.name!r} has no trial at full fidelity, so there is nothing to score; see why with: "
            f"ray-tl status {store.spec.name}"
        )
    evidence = _evidence(store, trials)
    together = _pool(store.spec, trials, evidence)
    scores, gaps = _scored(names, trials, evidence, together, _reference(store), progress)
    return Rescoring(
        study=store.spec.name,
        trials=tuple(trials),
        champion=_champion(store),
        scores=scores,
        gaps=tuple(gaps),
        selection="" if other is None else str(other.search.selection),
        choice=None if rule is None else rule.choose(trials, evidence.__getitem__),
    )


def _known(names: Sequence[str]) -> list[str]:
    """Each once; raises one error for all that are not known."""
    if unknown := [name for name in dict.fromkeys(names) if name not in VALIDATORS.names()]:
        told = [f"validator {name!r} is not known{did_you_mean(name, VALIDATORS.names())}" for name in unknown]
        raise UnknownName("\n".join(told))
    return list(dict.fromkeys(names)) or VALIDATORS.names()


def _with_rule(spec: StudySpec, stated: str) -> StudySpec:
    """The study as if its file had named this rule."""
    options = {**spec.search.model_dump(), "selection": read_yaml_value(stated, "selection")}
    return spec.model_copy(update={"search": validated(SearchOptions, options, "selection")})


def _evidence(store: StudyStore, trials: Iterable[TrialRecord]) -> dict[int, TrialEvidence]:
    found = {}
    for trial in trials:
        files = TrialFiles.of(store, trial.number)
        try:
            found[trial.number] = files.load_trial_evidence()
        except (BadZipFile, EOFError, KeyError, ValueError, FileNotFoundError) as error:
            raise broken_study(store.folder, f"{files.evidence} is not what was written ({error})") from error
    return found


def _pool(spec: StudySpec, trials: Sequence[TrialRecord], evidence: Mapping[int, TrialEvidence]) -> PoolEvidence | None:
    sound = [item.trial.number for item in guarded(trials, context_of(spec).target_shares) if item.rejected is None]
    return pooled([evidence[number] for number in sound])


def _reference(store: StudyStore) -> LabelledSpace | None:
    path = store.folder / NEIGHBOURS_FILE
    return LabelledSpace.load(path) if path.is_file() else None


def _scored(
    names: Sequence[str],
    trials: Sequence[TrialRecord],
    evidence: Mapping[int, TrialEvidence],
    together: PoolEvidence | None,
    reference: LabelledSpace | None,
    progress: Progress,
) -> tuple[dict[int, Scores], list[Gap]]:
    """Scores by number of the trial, and what is missing of them, trials with one reason together."""
    scores: dict[int, Scores] = {}
    missing: dict[tuple[str, str], list[int]] = {}
    for trial in trials:
        number, outputs = trial.number, evidence[trial.number]
        scores[number] = {}
        source = None if outputs.final is None else outputs.final.source(outputs.source_holdout)
        target = _target(outputs, reference)
        for name in names:
            if trial.refit_of is not None and looks_at_source(name):
                missing.setdefault((name, TRAINED_ON), []).append(number)
                continue
            try:
                scores[number] |= score_all([name], source, target, together)
            except (Unavailable, TrialFailed) as error:
                missing.setdefault((name, _reason(name, error, outputs)), []).append(number)
        progress(len(scores), len(evidence))
    return scores, [Gap(name, tuple(numbers), reason) for (name, reason), numbers in missing.items()]


def _target(outputs: TrialEvidence, reference: LabelledSpace | None) -> TargetEvidence:
    if outputs.final is not None:
        return outputs.final.target(outputs.target, reference)
    return TargetEvidence(outputs.target, reference, centred_logits(outputs.target))


def _reason(name: str, error: Exception, outputs: TrialEvidence) -> str:
    """Without the validator's name and the advice to leave it out."""
    said = str(error).removeprefix(f"validator {name!r} ").removesuffix("; leave it out.").removesuffix(".")
    return said if outputs.final is not None else f"{said}: the trial is of a study that kept predictions alone"


def _champion(store: StudyStore) -> int | None:
    content = store.read_json(CHAMPION_FILE)
    return None if content is None else int(str(content["trial"]))


def _chosen(selection: str, choice: Choice) -> dict[str, object]:
    return {
        "rule": selection,
        "trial": choice.champion.number,
        "reason": choice.reason,
        "merits": choice.merits,
        "rejected": {item.trial.number: item.rejected for item in choice.candidates if item.rejected is not None},
    }
