"""What the sampler of a study learns from, and how it draws a trial.

TPE takes the longer the more trials it has seen, and does so for each group of parameters. So it is shown at most
`GOOD + OTHERS` trials that have ended: the best ones, and the latest of the others. In a study with fewer, nothing is
left out. In a larger one, the trials that it holds to be good are those that it would choose among all, as Optuna
takes the best tenth for good and never more than 25. Of the others, it would weigh the old ones less and less; here it
does without them.
"""

import warnings
from bisect import insort
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ray_tl.config import TrialConfig
from ray_tl.registry import Scalar
from ray_tl.search_space import SearchOptions, SearchSpace
from ray_tl.study.records import TrialRecord, TrialState
from ray_tl.study.tables import STATES, Drawn, Params

optuna.logging.set_verbosity(optuna.logging.ERROR)

GOOD, OTHERS = 25, 225
LEARNED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE)
_STUDY = "seen"


class Window:
    """The trials that a sampler is shown of those that have ended.

    Args:
        good: So many of the best, in the order of TPE: the complete ones by objective, then those that were pruned, the
            longest first, and last those whose configuration failed.
        others: So many of the rest, the latest.
    """

    def __init__(self, good: int = GOOD, others: int = OTHERS) -> None:
        self._num_good, self._num_others = good, others
        self._good: list[TrialRecord] = []
        self._others: list[TrialRecord] = []

    def add(self, trial: TrialRecord) -> None:
        """A trial that has ended; failed ones and refits teach a sampler nothing."""
        if (trial.state not in LEARNED and trial.violated is None) or trial.refit_of is not None:
            return
        insort(self._good, trial, key=_rank)
        if len(self._good) > self._num_good:
            insort(self._others, self._good.pop(), key=_number)
        if len(self._others) > self._num_others:
            del self._others[0]

    def trials(self) -> list[TrialRecord]:
        """By number."""
        return sorted([*self._good, *self._others], key=_number)


class StudySampler:
    """TPE for conditional spaces, over a window of the trials of a study.

    Args:
        space: Of the study.
        search: Likewise.
        num_trials: That it has already: a resumed search must not draw the numbers of its beginning again.
    """

    def __init__(self, space: SearchSpace, search: SearchOptions, num_trials: int) -> None:
        self._space = space
        self._window = Window()
        self._seen: dict[int, FrozenTrial] = {}
        self._storage = _Seen()
        self._tpe = _tpe(search, num_trials)
        optuna.create_study(storage=self._storage, study_name=_STUDY, direction="maximize", sampler=self._tpe)

    def learn(self, trial: TrialRecord) -> None:
        """A trial has ended."""
        self._window.add(trial)

    def draw(
        self,
        number: int,
        running: Sequence[TrialRecord],
        params_of: Callable[[Collection[int]], Mapping[int, Params]],
        fixed: Mapping[str, Scalar],
    ) -> tuple[TrialConfig, Drawn]:
        """A configuration for the trial of this number.

        Args:
            number: Of a trial that is none of the others.
            running: Trials that have not ended, which TPE takes for bad ones: near them nothing more is to be tried.
            params_of: Gives the parameters of trials by their numbers.
            fixed: Parameters that are not drawn.
        """
        self._storage.trials = self._shown([*self._window.trials(), *running], params_of)
        study = optuna.load_study(study_name=_STUDY, storage=self._storage, sampler=self._tpe)
        trial = _Trial(study, number, fixed)
        return self._space.sample(trial), trial.drawn()

    def _shown(
        self, trials: Sequence[TrialRecord], params_of: Callable[[Collection[int]], Mapping[int, Params]]
    ) -> list[FrozenTrial]:
        """As Optuna has them, by number."""
        unknown = params_of([trial.number for trial in trials if trial.number not in self._seen])
        self._seen = {trial.number: _frozen(trial, self._seen.get(trial.number), unknown) for trial in trials}
        return [self._seen[number] for number in sorted(self._seen)]


class _Seen(optuna.storages.InMemoryStorage):
    """A study of the trials that TPE is to see.

    Attributes:
        trials: By number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trials: list[FrozenTrial] = []

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:  # noqa: ANN401
        return [trial for trial in self.trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: object) -> None:
        """Nothing: TPE tells other processes what it draws, and there is none."""


class _Trial:
    """What a space is sampled through: each parameter is drawn once, with those that depend on one another together."""

    def __init__(self, study: optuna.Study, number: int, fixed: Mapping[str, Scalar]) -> None:
        self._study, self._fixed = study, fixed
        self._trial = _frozen_trial(number, OptunaState.RUNNING)
        self._together: dict[str, Any] | None = None

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self._suggest(name, FloatDistribution(low, high, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self._suggest(name, IntDistribution(low, high, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return self._suggest(name, CategoricalDistribution(choices))

    def drawn(self) -> Drawn:
        distributions = self._trial.distributions
        internal = {name: distributions[name].to_internal_repr(value) for name, value in self._trial.params.items()}
        return Drawn(internal, {name: distribution_to_json(each) for name, each in distributions.items()})

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:  # noqa: ANN401  of the distribution's kind
        if name not in self._trial.params:
            value = self._value(name, distribution)
            self._trial.params = {**self._trial.params, name: value}
            self._trial.distributions = {**self._trial.distributions, name: distribution}
        return self._trial.params[name]

    def _value(self, name: str, distribution: BaseDistribution) -> object:
        if name in self._fixed:
            return self._fixed[name]
        if distribution.single():
            return _only_value(distribution)
        if self._together is None:
            space = self._study.sampler.infer_relative_search_space(self._study, self._trial)
            self._together = self._study.sampler.sample_relative(self._study, self._trial, space)
        if name in self._together:
            return self._together[name]
        return self._study.sampler.sample_independent(self._study, self._trial, name, distribution)


def _only_value(distribution: BaseDistribution) -> object:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low


def _tpe(search: SearchOptions, num_trials: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`, on purpose
        return optuna.samplers.TPESampler(
            seed=(search.seed + 1_000_003 * num_trials) % 2**32,
            n_startup_trials=max(5, search.num_trials // 3),
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def _number(trial: TrialRecord) -> int:
    return trial.number


def _rank(trial: TrialRecord) -> tuple[float, float, float]:
    """Smaller for a trial that TPE holds to be better; see `Window`."""
    last = trial.last
    if trial.violated is not None:
        return 2, 0, 0
    if last is None:
        return 1, 1, 0
    if trial.state is TrialState.COMPLETE:
        return 0, 0, -last.objective
    worst = float("inf")
    return 1, -last.epoch, worst if last.objective != last.objective else -last.objective


def _frozen(trial: TrialRecord, seen: FrozenTrial | None, params_of: Mapping[int, Params]) -> FrozenTrial:
    """A trial as it is now; what it was seen as while it ran has its parameters."""
    state = OptunaState[STATES[TrialState.INFEASIBLE if trial.violated else trial.state]]
    if seen is not None and seen.state is state:
        return seen
    now = _frozen_trial(trial.number, state)
    if seen is not None:
        now.params, now.distributions = seen.params, seen.distributions
    else:
        stored = params_of.get(trial.number, {})
        now.distributions = {name: _distribution(text) for name, (_, text) in stored.items()}
        now.params = {name: now.distributions[name].to_external_repr(value) for name, (value, _) in stored.items()}
    if state.is_finished() and trial.last is not None:
        now.value = trial.last.objective
        now.intermediate_values = {trial.last.epoch: trial.last.objective}
    if trial.violated is not None:
        now.set_constraint(trial.violated, 1.0)
    return now


def _frozen_trial(number: int, state: OptunaState) -> FrozenTrial:
    """With nothing in it."""
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


@cache
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
