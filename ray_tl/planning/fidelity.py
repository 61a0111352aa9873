"""How many steps a trial takes, said before a search: a small source leaves few of them in a pass."""

from collections.abc import Iterable

from ray_tl.config import TrialConfig
from ray_tl.models.backbones import dimensions
from ray_tl.models.fine_tuning import UNFREEZING, stages_at
from ray_tl.models.freezing import stages_that_train
from ray_tl.search_space import DataOptions
from ray_tl.training.batches import PairedBatches, least_steps_of_an_epoch
from ray_tl.training.network import expected_context


def fidelity_note(
    config: TrialConfig, corners: Iterable[TrialConfig], options: DataOptions, num_source: int, num_target: int
) -> str | None:
    """What `search.min_steps` means for these domains; `None` if nothing.

    Args:
        config: Gives epochs and batch size.
        corners: Of the space, in what is augmented and frozen: whether the head alone trains in any of them.
        options: Of the data.
        num_source: Examples to train on.
        num_target: Examples of the target.
    """
    if config.min_steps is None or not any(_begins_with_head_alone(each, options) for each in corners):
        return None
    least = least_steps_of_an_epoch(config)
    one_pass = PairedBatches(num_source, num_target, config.batch_size, 0, 1, config.seed).steps_per_epoch
    if one_pass >= least:
        return None
    return (
        f"the source has {num_source} examples to train on: {config.epochs} epochs in batches of {config.batch_size} "
        f"would be {one_pass * config.epochs:,} steps; where the head alone trains, on cached features, they are "
        f"{least * config.epochs:,} (search.min_steps; null for one pass an epoch)."
    )


def _begins_with_head_alone(config: TrialConfig, options: DataOptions) -> bool:
    if config.augmentation.name != "none":
        return False
    sizes, _ = dimensions(config.backbone, expected_context(options))
    stages = stages_that_train(config.freeze_depth, config.trained_stages, sizes, config.backbone.name)
    schedule = UNFREEZING.create(config.unfreezing.name, config.unfreezing.params)
    return not stages_at(schedule, 0.0, stages, len(sizes))
