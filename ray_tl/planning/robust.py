"""Fine-tunes that keep most of what pretraining gave: prepared wherever a space fine-tunes a pretrained backbone."""

from collections.abc import Iterator, Mapping

from ray_tl.config import TrialConfig
from ray_tl.models.backbones import dimensions, is_pretrained
from ray_tl.models.freezing import stages_that_train
from ray_tl.search_space import DataOptions, SearchSpace
from ray_tl.training.network import expected_context

TRIALS_EACH = 4  # a search must have so many for each of these, or it has no time for them
PROBE_FIRST: Mapping[str, object] = {"probe_then_fine_tune": {"until": 0.3, "rate_after": 0.1}}
ROBUST: tuple[Mapping[str, object], ...] = (
    {"unfreezing": PROBE_FIRST, "averaging": "wise_ft"},
    {"unfreezing": PROBE_FIRST, "regulariser": "l2_sp"},
)


def robust_fine_tunes(space: SearchSpace, options: DataOptions, num_trials: int) -> tuple[TrialConfig, ...]:
    """Source-only with as many stages trained as anywhere in the space, in ways that lose little of pretraining.

    The head learns first (Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022,
    https://arxiv.org/abs/2202.10054); then weights end half way between before and after (WiSE-FT), or are held near
    where they began (L2-SP). Full fine-tunes that gain on the source and lose on the target have a rival in the pool.

    Args:
        space: Resolved.
        options: Of the data.
        num_trials: Of the search: at most one in `TRIALS_EACH` is spent on these.
    """
    corners = space.extremes({"backbone", "freeze_depth", "trained_stages", "parameter_efficient"})
    deepest = max(corners, key=lambda each: _num_trained(each, options))
    if not _num_trained(deepest, options):
        return ()
    return tuple(_robust(space.baseline(), deepest))[: num_trials // TRIALS_EACH]


def _num_trained(config: TrialConfig, options: DataOptions) -> int:
    """Stages of a pretrained backbone that a trial trains; 0 of another backbone."""
    if not is_pretrained(config.backbone):
        return 0
    sizes, _ = dimensions(config.backbone, expected_context(options))
    return len(stages_that_train(config.freeze_depth, config.trained_stages, sizes, config.backbone.name))


def _robust(baseline: TrialConfig, deepest: TrialConfig) -> Iterator[TrialConfig]:
    where = deepest.model_dump(include={"backbone", "freeze_depth", "trained_stages", "parameter_efficient"})
    for how in ROBUST:
        yield TrialConfig.model_validate({**baseline.model_dump(), **where, **how})
