"""Every registry: what a search may choose, and what `ray-tl components` prints."""

from ray_tl.adaptation import METHODS
from ray_tl.adaptation.closed_form import CLOSED_FORM
from ray_tl.adaptation.loss_weights import LOSS_WEIGHTS
from ray_tl.data.augmentation import AUGMENTATIONS, TEST_TIME_AUGMENTATIONS
from ray_tl.data.mixing import MIXINGS
from ray_tl.models.adaptors import ADAPTORS
from ray_tl.models.backbones import BACKBONES
from ray_tl.models.domain_norm import DOMAIN_NORMS
from ray_tl.models.features import FEATURES
from ray_tl.models.fine_tuning import LR_MULTIPLIERS, UNFREEZING
from ray_tl.models.parameter_efficient import PARAMETER_EFFICIENT
from ray_tl.registry import Registry
from ray_tl.selection import SELECTION_RULES
from ray_tl.training.averaging import AVERAGING
from ray_tl.training.class_balance import CLASS_BALANCES
from ray_tl.training.gradients import GRADIENT_MASKING
from ray_tl.training.multi_task import MULTI_TASKS
from ray_tl.training.optimisation import LR_SCHEDULES, OPTIMIZERS
from ray_tl.training.regularisers import REGULARISERS
from ray_tl.training.stopping import EARLY_STOPPING
from ray_tl.training.transfer import TRANSFERS
from ray_tl.validation import VALIDATORS


def catalogue() -> dict[str, Registry]:
    """The registry for each field of `TrialConfig` that names a component."""
    return {
        "backbone": BACKBONES,
        "features": FEATURES,
        "adaptor": ADAPTORS,
        "domain_norm": DOMAIN_NORMS,
        "parameter_efficient": PARAMETER_EFFICIENT,
        "lr_multipliers": LR_MULTIPLIERS,
        "unfreezing": UNFREEZING,
        "method": METHODS.joined(CLOSED_FORM),
        "regulariser": REGULARISERS,
        "gradient_masking": GRADIENT_MASKING,
        "loss_weighting": LOSS_WEIGHTS,
        "transfer": TRANSFERS,
        "multi_task": MULTI_TASKS,
        "optimizer": OPTIMIZERS,
        "lr_schedule": LR_SCHEDULES,
        "averaging": AVERAGING,
        "early_stopping": EARLY_STOPPING,
        "augmentation": AUGMENTATIONS,
        "mixing": MIXINGS,
        "class_balance": CLASS_BALANCES,
        "test_time_augmentation": TEST_TIME_AUGMENTATIONS,
    }


def describe() -> list[dict[str, object]]:
    """Every component as plain values: kind, name, summary, parameters, and the settings of its authors."""
    return [
        {
            "kind": registry.kind,
            "field": field,
            "name": name,
            "summary": registry.summary(name),
            "parameters": [vars(parameter) for parameter in registry.parameters(name).values()],
            "published": (stated := registry.published(name)) and vars(stated),
        }
        for field, registry in {**catalogue(), "selection": SELECTION_RULES, "validators": VALIDATORS}.items()
        for name in registry.names()
    ]
