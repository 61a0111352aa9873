"""Training what was chosen once more, on all of the source: with which settings, and which of the networks stands."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ray_tl.config import TrialConfig
from ray_tl.selection.choice import Candidate, Choice
from ray_tl.selection.families import family_of

Combination = Literal["nearest", "soup", "distilled", "ensemble"]
"""What makes one network of several."""


def refit_configs(config: TrialConfig, num_seeds: int, combination: Combination) -> list[TrialConfig]:
    """A trial's configuration with k other seeds; for a soup they begin with the weights that the trial began with."""
    initial = config.seed if config.initial_seed is None else config.initial_seed
    shared = initial if combination == "soup" else None
    seeds = range(config.seed + 1, config.seed + 1 + num_seeds)
    return [config.model_copy(update={"seed": seed, "initial_seed": shared}) for seed in seeds]


def nearest_to_mean(target: Mapping[int, NDArray[np.floating]]) -> int:
    """Which network predicts most often what the mean softmax of all predicts; of equal ones the first.

    Args:
        target: Softmax by number of the trial, [M, C].
    """
    mean = np.mean(list(target.values()), axis=0).argmax(axis=1)
    agreement = {number: float((each.argmax(axis=1) == mean).mean()) for number, each in target.items()}
    return max(agreement, key=lambda number: agreement[number])


def to_refit(choice: Choice, top: int) -> list[Candidate]:
    """The champion, and after it the best of other families up to `top`, of those that may win over source-only."""
    taken: dict[str, Candidate] = {}
    for item in _in_front(choice.candidates):
        taken.setdefault(family_of(item.trial.config), item)
    return list(taken.values())[:top]


def _in_front(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """The champion, whatever it is, and those behind it that come before source-only and that no guard rejects."""
    champion, *others = candidates
    place = next((place for place, item in enumerate(candidates) if item.trial.is_baseline), len(candidates))
    return [champion, *(item for item in others[: max(0, place - 1)] if item.rejected is None)]
