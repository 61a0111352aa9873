"""What a study found to add to the logits of its champion, so that predictions suit the class shares of its target."""

import math

from ray_tl.study.store import CHAMPION_FILE, StudyStore


def recorded_correction(store: StudyStore, trial: int) -> tuple[float, ...] | None:
    """What is added to each logit of a trial, [C]; `None` if nothing, or if it was found for another trial.

    Raises:
        BrokenStudy: If it is not what was written.
    """
    prior = (store.read_json(CHAMPION_FILE) or {}).get("prior")
    try:
        if not isinstance(prior, dict) or prior["correction"] is None or prior["trial"] != trial:
            return None
        found = tuple(float(value) for value in prior["correction"])
        if len(found) != len(store.spec.classes) or not all(map(math.isfinite, found)):
            raise ValueError(f"prior.correction={list(found)} is no number for each class")
    except (KeyError, TypeError, ValueError) as error:
        raise store.unreadable(CHAMPION_FILE, f"{type(error).__name__}: {error}") from error
    return found
