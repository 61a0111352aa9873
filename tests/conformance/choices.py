"""Every choice of how a network is fine-tuned, as fields of a trial that adapts with labelled target examples."""

from ray_tl.models.parameter_efficient import PARAMETER_EFFICIENT
from ray_tl.training.gradients import GRADIENT_MASKING
from ray_tl.training.regularisers import REGULARISERS

CHOICES: dict[str, dict] = {
    **{f"regulariser {name}": {"method": "dann", "regulariser": name} for name in REGULARISERS.names()},
    **{f"masking {name}": {"method": "dann", "gradient_masking": name} for name in GRADIENT_MASKING.names()},
    "masking of stages": {"method": "coral", "gradient_masking": {"project": {"scope": "stage"}}},
    **{f"tuning {name}": {"method": "dann", "parameter_efficient": name} for name in PARAMETER_EFFICIENT.names()},
    "tuning by lora with dropout": {"method": "dann", "parameter_efficient": {"lora": {"dropout": 0.3}}},
    "dropout and smoothing": {"method": "dann", "dropout": 0.3, "label_smoothing": 0.1},
}
