"""From a freeze depth as people state it to the stages of a backbone that train."""

from collections.abc import Sequence

from ray_tl.errors import InvalidInput


def stages_that_train(
    freeze_depth: int | str, trained_stages: int | None, stage_sizes: Sequence[int], backbone_name: str
) -> range:
    """The stages that train once everything that ever trains does; empty at the end for the head alone.

    Args:
        freeze_depth: Of the trial: a number of stages, `head_only`, `last_K` or `everything`. `last_K` counts stages
            with parameters, so that `last_1` is never the pooling alone.
        trained_stages: Of the trial: how many train from there on; `None` for all.
        stage_sizes: Parameters of each stage of the backbone.
        backbone_name: For messages.

    Raises:
        InvalidInput: If the backbone has too few stages.
    """
    num_stages = len(stage_sizes)
    depth = _depth(freeze_depth, stage_sizes, backbone_name)
    if trained_stages is None:
        return range(depth, num_stages)
    if depth == num_stages:
        raise InvalidInput(
            f"trained_stages={trained_stages} has no stage to train: freeze_depth={freeze_depth!r} freezes all "
            f"{num_stages} of {backbone_name!r}; lower freeze_depth, or leave trained_stages out."
        )
    if depth + trained_stages > num_stages:
        raise InvalidInput(
            f"trained_stages={trained_stages} from stage {depth} on ends behind the last of the {num_stages} stages of "
            f"{backbone_name!r}; choose 1..{num_stages - depth}, or leave it out."
        )
    return range(depth, depth + trained_stages)


def check_freeze_depth(depth: int, num_stages: int, backbone_name: str) -> None:
    """Whether a backbone of `num_stages` stages can be frozen that deep.

    Raises:
        InvalidInput: If it can't.
    """
    if not 0 <= depth <= num_stages:
        wrong = "negative" if depth < 0 else f"deeper than {backbone_name!r}, which has {num_stages} stages"
        raise InvalidInput(f"freeze_depth={depth} is {wrong}; choose 0..{num_stages}.")


def _depth(freeze_depth: int | str, stage_sizes: Sequence[int], backbone_name: str) -> int:
    if isinstance(freeze_depth, int):
        check_freeze_depth(freeze_depth, len(stage_sizes), backbone_name)
        return freeze_depth
    if freeze_depth in ("head_only", "everything"):
        return len(stage_sizes) if freeze_depth == "head_only" else 0
    wanted = int(freeze_depth.removeprefix("last_"))
    learning = [number for number, size in enumerate(stage_sizes) if size > 0]
    if wanted > len(learning):
        raise InvalidInput(
            f"freeze_depth={freeze_depth!r} is more than {backbone_name!r} has, {len(learning)} stages with parameters;"
            f" choose last_1..last_{len(learning)}, head_only or everything."
        )
    return learning[-wanted]
