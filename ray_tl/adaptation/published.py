"""What many papers of this field have in common: the optimiser and the layer before the head of their experiments.

A method adds to these what its own paper states. Batches are theirs of each domain.
"""

from typing import Final

FIELDS = dict[str, object]

BOTTLENECK: Final[FIELDS] = {"adaptor": {"bottleneck": {"width": 256, "norm": "batch", "activation": "relu"}}}
"""As in the authors' code of CDAN, MCC and most that follow; the layer itself is that of DAN, 2015."""

SLOW_BACKBONE: Final[FIELDS] = {"freeze_depth": "everything", "lr_multipliers": {"uniform": {"head": 10.0}}}
"""Pretrained layers learn at a tenth of the rate of new ones."""

RATE_OF_DANN: Final[FIELDS] = {"lr_schedule": {"inverse_decay": {"alpha": 10.0, "beta": 0.75}}}
"""Ganin et al., 2016, https://arxiv.org/abs/1505.07818, section 5.2.2."""

LIKE_CDAN: Final[FIELDS] = {
    **BOTTLENECK,
    **SLOW_BACKBONE,
    **RATE_OF_DANN,
    "optimizer": {"sgd": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}},
    "batch_size": 36,
}
"""Long et al., 2018, https://arxiv.org/abs/1705.10667, and the authors' code: what compares to it repeats it."""

LIKE_SHOT: Final[FIELDS] = {
    "adaptor": {"bottleneck": {"width": 256, "norm": "batch", "activation": "none"}},
    **SLOW_BACKBONE,
    **RATE_OF_DANN,
    "optimizer": {"sgd": {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-3}},
    "label_smoothing": 0.1,
    "batch_size": 64,
}
"""Liang et al., 2020, https://arxiv.org/abs/2002.08546."""

DIGITS: Final[FIELDS] = {"freeze_depth": "everything", "optimizer": {"adam": {"lr": 2e-4}}, "batch_size": 128}
"""Adam at 2e-4 on all of a small network, as many papers train on digits."""


def constant(**weights: float) -> FIELDS:
    """These weights of the losses from the first step to the last."""
    return {"loss_weighting": {"constant": weights}}
