import numpy as np
import pytest

from ray_tl.selection.agreement import Agreements
from ray_tl.selection.margins import margins, structure_margins


def drawn(means, spread, seed=0, resamples=200):
    noise = np.random.default_rng(seed).normal(scale=spread, size=(resamples, len(means)))
    return np.concatenate([[means], np.array(means) + noise])


def found(structure, names, spread=0.0):
    return Agreements(tuple(range(len(structure))), drawn(structure, spread), drawn(names, spread, seed=1))


def test_a_margin_is_the_difference_of_mean_standard_scores():
    result = margins(found([0.0, 1.0, 2.0], [0.0, 2.0, 1.0]), baseline=0)
    step = 1 / np.std([0.0, 1.0, 2.0])
    assert result[1].value == pytest.approx(1.5 * step)
    assert result[2].merit == pytest.approx((step + 0) / 2)
    assert result[0].value == 0


def test_what_is_ahead_by_far_more_than_the_noise_is_so_beyond_chance_and_source_only_never():
    result = margins(found([0.0, 1.0, 2.0], [0.0, 2.0, 1.0], spread=0.05), baseline=0)
    assert result[1].is_beyond_chance
    assert result[1].low < result[1].value < result[1].high
    assert not result[0].is_beyond_chance


def test_what_is_ahead_by_less_than_the_noise_is_not():
    result = margins(found([0.0, 0.02, 1.0, -1.0], [0.0, 0.02, 1.0, -1.0], spread=0.2), baseline=0)
    assert not result[1].is_beyond_chance


def test_what_is_far_ahead_by_structure_and_behind_by_names_is_not_ahead_beyond_chance():
    result = margins(found([0.0, 3.0, 3.0, -9.0], [0.0, -0.1, 0.1, -3.0], spread=0.01), baseline=0)
    assert result[1].value > 0
    assert not result[1].is_beyond_chance
    assert result[2].is_beyond_chance


def test_a_trial_that_is_as_good_is_beyond_chance_in_one_of_twenty_draws():
    wins = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        values = [np.concatenate([random.normal(size=2), np.linspace(-20, 20, 9)]) for _ in range(2)]
        whole = [np.concatenate([drawn(each, 1.0, 2 * seed + k)], axis=0) for k, each in enumerate(values)]
        wins += margins(Agreements(tuple(range(11)), *whole), baseline=0)[1].is_beyond_chance
    assert 2 <= wins <= 20  # 10 are expected of the merit alone


def test_a_margin_of_structure_does_not_look_at_names():
    result = structure_margins(found([0.5, 0.4, 0.45], [0.0, 1.0, 1.0], spread=0.01), baseline=0)
    assert result[1].value == pytest.approx(-0.1)
    assert result[1].is_behind
    assert not result[0].is_behind
