"""Source-only with the augmentation of a space: prepared wherever a space augments, as the baseline does not."""

from ray_tl.config import TrialConfig
from ray_tl.search_space import Preferring, SearchSpace

TRIALS_EACH = 4  # a shorter search has no time for it


def augmented_source_only(space: SearchSpace, num_trials: int) -> tuple[TrialConfig, ...]:
    """The baseline with the augmentation of the space, the first that is one; none in a space that augments nothing.

    Where augmentation bridges the gap, methods of adaptation that have it too are no better for their own sake, and on
    a target that lacks classes of the source worse: source-only has to have it to be chosen.

    Args:
        space: Resolved.
        num_trials: Of the search.
    """
    augmentation = space.sample(Preferring({"augmentation": lambda value: float(value == "none")})).augmentation
    if augmentation.name == "none" or num_trials < TRIALS_EACH:
        return ()
    return (space.baseline().model_copy(update={"augmentation": augmentation}),)
