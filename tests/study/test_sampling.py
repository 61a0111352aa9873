"""What TPE is shown, and that it draws what Optuna itself would."""

import numpy as np
import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState as OptunaState

from ray_tl.search_space import SearchSpace
from ray_tl.study.records import TrialRecord, TrialState
from ray_tl.study.sampling import Window
from tests.examples import TREES, epoch, spec, store, trial

OPTUNA_STATES = {TrialState.COMPLETE: OptunaState.COMPLETE, TrialState.PRUNED: OptunaState.PRUNED}


def random_trials(count: int, share_pruned: float = 0.3) -> list[TrialRecord]:
    """Pruned ones end after one or two epochs of three."""
    random = np.random.default_rng(7)
    states = [TrialState.PRUNED if random.random() < share_pruned else TrialState.COMPLETE for _ in range(count)]
    lengths = [random.integers(1, 3) if state is TrialState.PRUNED else 3 for state in states]
    return [trial(number, states[number], random.normal(size=lengths[number])) for number in range(count)]


@pytest.mark.parametrize("share_pruned", [0.3, 0.99, 1.0])
def test_the_window_holds_what_tpe_takes_for_good_among_all(share_pruned):
    study, window = optuna.create_study(direction="maximize"), Window()
    for record in random_trials(600, share_pruned):
        window.add(record)
        values = {each.epoch: each.objective for each in record.epochs}
        value = record.last.objective if record.state is TrialState.COMPLETE else None
        state = OPTUNA_STATES[record.state]
        study.add_trial(optuna.trial.create_trial(state=state, value=value, intermediate_values=values))
    good, _ = _split_trials(study, study.trials, n_below=25)
    shown = window.trials()
    assert {each.number for each in good} <= {each.number for each in shown}
    assert len(shown) == 250
    assert {each.number for each in shown} >= set(range(600 - 225, 600))


def test_of_a_small_study_the_window_leaves_nothing_out():
    window, trials = Window(), random_trials(250)
    for record in trials:
        window.add(record)
    assert window.trials() == trials


def test_failed_trials_and_refits_are_not_shown():
    window = Window()
    for record in (trial(0, TrialState.FAILED), trial(1, refit_of=0), trial(2, TrialState.INFEASIBLE, [])):
        window.add(record)
    assert [record.number for record in window.trials()] == [2]


def test_trials_that_needed_too_much_memory_are_held_to_be_worst():
    window = Window(good=1, others=1)
    for number, state in enumerate([TrialState.INFEASIBLE, TrialState.COMPLETE, TrialState.PRUNED]):
        window.add(trial(number, state))
    assert [record.number for record in window.trials()] == [1, 2]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_store_draws_what_an_optuna_study_draws(tmp_path):
    opened = store(tmp_path, first=(), num_trials=12)
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=5, multivariate=True, group=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = SearchSpace(TREES, epochs=9, seed=spec().search.seed)
    for _ in range(20):
        own, theirs = opened.ask(), study.ask()
        assert own.config.method == space.sample(theirs).method
        assert opened_params(opened, own.number) == theirs.params
        objective = own.config.optimizer.params["lr"] ** 0.5
        opened.add_epoch(own.number, epoch(1, objective), 1)
        opened.finish(own.number, TrialState.COMPLETE)
        study.tell(theirs, objective)


def opened_params(opened, number):
    """As Optuna reads them from the database."""
    storage = f"sqlite:///{opened.folder / 'study.db'}"
    return optuna.load_study(study_name="office", storage=storage).trials[number].params
