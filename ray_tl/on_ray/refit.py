"""After the last trial: what was chosen is trained again on all of the source, on the slots that are still warm."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import ray

from ray_tl.config import TrialConfig
from ray_tl.errors import RayTLError
from ray_tl.on_ray.confirmation import Confirmation, evidence_of, readable_trials, reevaluate
from ray_tl.on_ray.slots import LOOK_EVERY_S, SlotPool
from ray_tl.on_ray.trial_queue import Job, Message, Outcome
from ray_tl.search_space import RefitOptions
from ray_tl.selection import Choice, SelectionRule, TrialEvidence
from ray_tl.selection.choice import EvidenceOf
from ray_tl.selection.findings import Guided
from ray_tl.selection.refit import Combination, nearest_to_mean, refit_configs, to_refit
from ray_tl.study.records import EpochRecord, TrialRecord, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.refit import combination_of
from ray_tl.training.report import EpochReport
from ray_tl.validation import looks_at_source

IN_WORDS: Mapping[Combination, str] = {
    "soup": "their soup",
    "distilled": "which learned what they predict together",
    "ensemble": "their ensemble",
}


@dataclass(frozen=True)
class Refit:
    """What became of a trial that was trained again.

    Attributes:
        of: The trial, as it was.
        seeds: Numbers of its refits.
        combine: How one network was to be made of these.
        network: What they became; `None` if that failed.
        kept: Whether the network takes the place of the trial.
        reason: Why, or why not.
        confirmation: Of the network, looked at again.
    """

    of: TrialRecord
    seeds: tuple[int, ...]
    combine: str
    network: TrialRecord | None
    kept: bool
    reason: str
    confirmation: Confirmation

    @property
    def stands(self) -> TrialRecord:
        """The network if it is kept, else the trial."""
        return self.network if self.kept and self.network is not None else self.of

    def summary(self) -> dict[str, object]:
        """Plain values for `champion.json`."""
        return {
            "of": self.of.number,
            "seeds": list(self.seeds),
            "combine": self.combine,
            "kept": self.kept,
            "reason": self.reason,
        }


def refit(
    store: StudyStore,
    queue: ray.actor.ActorHandle,
    slots: SlotPool,
    found: Guided,
    num_workers: int,
    watch: Callable[[TrialRecord], None],
    say: Callable[[str], None],
) -> list[Refit]:
    """Train the best of a choice again on all of the source, and let the rule compare; the first of the list wins.

    What an earlier process has trained is not trained again. Nothing that fails is raised: the trial stays as it was,
    and the reason says so.

    Args:
        store: Held exclusively by this process, all its trials ended.
        queue: With slots that wait for work.
        slots: These.
        found: The choice among the ordinary trials.
        num_workers: Of each slot, for the cost.
        watch: Called with a refit whenever it has changed.
        say: Called with lines for people.

    Returns:
        Empty where the study asks for no refit.
    """
    options = store.spec.search.refit
    if options is None:
        return []
    work, choice = _Refitting(store, queue, slots, options, num_workers, watch, found.rule), found.choice
    chosen = [item.trial for item in to_refit(choice, options.top)]
    seeds = {trial.number: work.begun(trial) for trial in chosen}
    for trial in chosen:
        numbers = _listed([each.number for each in seeds[trial.number]])
        note = work.note(trial)
        said = f"trial {trial.number} is trained again on all of the source, hold-out included, as {numbers}"
        say(f"{said}; {note}" if note else said)
    try:
        work.train([(trial, each) for trial in chosen for each in seeds[trial.number]])
    except RayTLError as error:
        reason = f"Training it again on all of the source failed, so it stays as it was: {error}"
        return [Refit(choice.champion, (), options.combine, None, False, reason, {})]
    outcomes = [work.outcome(trial, [each.number for each in seeds[trial.number]]) for trial in chosen]
    return in_order(store, work.rule, outcomes)


def in_order(store: StudyStore, rule: SelectionRule, found: list[Refit]) -> list[Refit]:
    """The best first, by the choice among all trials with each network that is kept in the place of its trial."""
    if len(found) == 1:
        return found
    kept = {each.of.number: stand_in(each.of, each.stands) for each in found}
    trials = [kept.get(trial.number, trial) for trial in readable_trials(store)[0]]
    choice = rule.choose(trials, evidence_of(store))
    assert choice is not None
    places = {item.trial.number: place for place, item in enumerate(choice.candidates)}
    return sorted(found, key=lambda each: places[each.stands.number])


def reason_of(choice: Choice, refits: Sequence[Refit]) -> str:
    """Why the champion is the champion: the choice, what became of each refit, and which of several it is.

    Args:
        choice: Among the ordinary trials.
        refits: The best first; empty where none was asked for.
    """
    said = [choice.reason, *(each.reason for each in refits)]
    if len(refits) > 1:
        first, *others = (each.stands.number for each in refits)
        said.append(f"Of these the rule of choice takes trial {first}, before {_listed(others)}.")
    return " ".join(said)


def stand_in(trial: TrialRecord, network: TrialRecord) -> TrialRecord:
    """A network as a member of the pool in the place of its trial, with what was held out of the latter."""
    if network is trial:
        return trial
    assert trial.last is not None
    assert network.last is not None
    last = network.last.model_copy(update={"scores": {**network.last.scores, **held_out(trial.last)}})
    return replace(network, epochs=[last], is_baseline=trial.is_baseline, refit_of=None)


def with_network(
    refit: Refit, choice: Choice, trials: Sequence[TrialRecord], evidence: EvidenceOf
) -> tuple[Choice, list[TrialRecord], EvidenceOf]:
    """Choice, trials and evidence with a network in the place of the trial that it is a refit of.

    What it predicts on held-out source examples, which trained it, is replaced by what the trial predicts there.
    """
    old, new = refit.of, refit.stands
    network = stand_in(old, new)
    first = next(item for item in choice.candidates if item.trial.number == old.number)
    others = [item for item in choice.candidates if item is not first]

    def with_hold_out_of_trial(number: int) -> TrialEvidence:
        if number != new.number:
            return evidence(number)
        return replace(evidence(number), source_holdout=evidence(old.number).source_holdout)

    stands = Choice((replace(first, trial=network), *others), choice.reason)
    return stands, [network if trial.number == old.number else trial for trial in trials], with_hold_out_of_trial


def held_out(record: EpochRecord) -> dict[str, float]:
    """Scores for which held-out source examples are needed."""
    return {name: value for name, value in record.scores.items() if looks_at_source(name)}


def epoch_of_refit(report: EpochReport, trial: TrialRecord, rule: SelectionRule) -> EpochRecord:
    """An epoch of a refit as it is remembered: without what was measured on examples that trained it.

    The objective takes that from the trial, so that it can be compared.

    Args:
        report: Of the refit.
        trial: Of which it is one, at full fidelity.
        rule: Of the study.
    """
    assert trial.last is not None
    objective = rule.objective({**report.scores, **held_out(trial.last)}, report.histogram)
    scores = {name: value for name, value in report.scores.items() if not looks_at_source(name)}
    return EpochRecord(objective=objective, **{**asdict(report), "scores": scores, "source_recalls": []})


class _Refitting:
    """Begins, trains and compares refits."""

    def __init__(
        self,
        store: StudyStore,
        queue: ray.actor.ActorHandle,
        slots: SlotPool,
        options: RefitOptions,
        num_workers: int,
        watch: Callable[[TrialRecord], None],
        rule: SelectionRule,
    ) -> None:
        self._store, self._queue, self._slots = store, queue, slots
        self._options, self._num_workers, self._watch = options, num_workers, watch
        self.rule = rule

    def begun(self, trial: TrialRecord) -> list[TrialRecord]:
        """The refits of a trial, in the order of their seeds; those that are not there yet begin."""
        combination, _ = combination_of(trial.config, self._store.spec)
        configs = refit_configs(trial.config, self._options.seeds, combination)
        return [self._begun(trial.number, config) for config in configs]

    def note(self, trial: TrialRecord) -> str:
        """Why its networks won't become what the study asks for; empty if they will."""
        return combination_of(trial.config, self._store.spec)[1]

    def train(self, refits: Sequence[tuple[TrialRecord, TrialRecord]]) -> None:
        """Train those that have not ended, all at once; each is given after the trial that it is a refit of."""
        self._follow(
            [
                (trial, Job(f"refit-{each.number}-{time.time_ns()}", each.number, each.config, "refit"))
                for trial, each in refits
                if each.state is TrialState.RUNNING
            ]
        )

    def _follow(self, jobs: Sequence[tuple[TrialRecord, Job]]) -> None:
        """Submit jobs, and remember what they report until all have ended; each is given after its trial."""
        pending: dict[ray.ObjectRef, tuple[Job, TrialRecord]] = {}
        for trial, job in jobs:
            record = self._store.trial(job.number)
            ray.get(self._queue.submit.remote(job))
            pending[self._queue.next_message.remote(job.key, record.last.epoch if record.last else 0)] = job, trial
            self._watch(record)
        while pending:
            ready, _ = ray.wait(list(pending), timeout=LOOK_EVERY_S)
            if self._slots.problem is not None:
                raise self._slots.problem
            for reference in ready:
                (job, trial), message = pending.pop(reference), ray.get(reference)
                self._remember(job.number, trial, message)
                if not isinstance(message, Outcome):
                    pending[self._queue.next_message.remote(job.key, message.epoch)] = job, trial

    def outcome(self, trial: TrialRecord, seeds: Sequence[int]) -> Refit:
        """What became of a trial whose refits have ended."""
        refits = [self._store.trial(number) for number in seeds]
        ended = [each for each in refits if each.at_full_fidelity]
        failures = [f"trial {each.number}: {each.error}" for each in refits if not each.at_full_fidelity]
        combination, note = combination_of(trial.config, self._store.spec)
        as_before = partial(Refit, trial, tuple(seeds), combination)
        said = f"Training trial {trial.number} again on all of the source, as {_listed(seeds)},"
        if not ended:
            return as_before(None, False, f"{said} failed, so it stays as it was: {'; '.join(failures)}", {})
        failed = "".join(f" ({'; '.join(notes)})" for notes in (failures, [note]) if any(notes))
        try:
            network, how = self._combined(trial, ended, combination)
            evidence = evidence_of(self._store)
            verdict = self.rule.compare(readable_trials(self._store)[0], evidence, trial, network)
            confirmation, problem = reevaluate(network, self._queue)
        except (RayTLError, OSError) as error:
            return as_before(None, False, f"{said} failed, so it stays as it was: {error}{failed}", {})
        if verdict.is_worse or problem is not None:
            why = verdict.reason if verdict.is_worse else problem
            said = f"{said} made it worse, so it stays as it was. {how[0].upper()}{how[1:]}: {why}{failed}."
            return as_before(network, False, said, {})
        return as_before(
            network, True, f"{said} gave {how}, which takes its place: {verdict.reason}{failed}.", confirmation
        )

    def _begun(self, of: int, config: TrialConfig, combines: tuple[int, ...] = ()) -> TrialRecord:
        known = (each for each in self._store.trials() if each.refit_of == of and each.combines == combines)
        found = next((each for each in known if each.config == config), None)
        return found or self._store.begin_refit(of, config, combines)

    def _remember(self, number: int, trial: TrialRecord, message: Message) -> None:
        if isinstance(message, Outcome) and message.is_withdrawn:
            raise self._slots.problem or RayTLError("the search was interrupted")
        if isinstance(message, EpochReport):
            self._store.add_epoch(number, epoch_of_refit(message, trial, self.rule), self._num_workers)
        elif message.failure is not None:
            state = TrialState.INFEASIBLE if message.failure.kind.is_of_memory else TrialState.FAILED
            self._store.finish(number, state, message.failure.message, message.failure.kind)
        else:
            self._store.finish(number, TrialState.COMPLETE)
        self._watch(self._store.trial(number))

    def _combined(
        self, trial: TrialRecord, refits: Sequence[TrialRecord], kind: Combination
    ) -> tuple[TrialRecord, str]:
        """One network, and what it is in words; raises `RayTLError` if they can't be combined."""
        numbers = tuple(each.number for each in refits)
        if kind == "nearest" or len(refits) == 1:
            evidence = evidence_of(self._store)
            best = nearest_to_mean({number: evidence(number).target for number in numbers})
            chosen = next(each for each in refits if each.number == best)
            return chosen, f"trial {best}, nearest to their mean" if len(refits) > 1 else f"trial {best}"
        network = self._begun(trial.number, trial.config, numbers)
        if network.state is TrialState.RUNNING:
            job = Job(f"combine-{time.time_ns()}", network.number, network.config, "combine", numbers, kind)
            self._follow([(trial, job)])
            network = self._store.trial(network.number)
        if not network.at_full_fidelity:
            raise RayTLError(f"trial {network.number}: {network.error}")
        return network, f"trial {network.number}, {IN_WORDS[kind]}"


def _listed(numbers: Sequence[int]) -> str:
    return f"trial{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
