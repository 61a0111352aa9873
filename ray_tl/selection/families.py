"""Which trials err alike: one vote for each family of methods."""

from ray_tl.config import TrialConfig


def family_of(config: TrialConfig) -> str:
    """Family of a trial's method, as the method states it.

    All that never look at the target are one family: they see it through the same boundaries.
    """
    from ray_tl.adaptation.closed_form import CLOSED_FORM, is_closed_form  # import torch, which a client does without
    from ray_tl.adaptation.method import METHODS

    name = config.method.name
    return CLOSED_FORM.family(name) if is_closed_form(name) else METHODS.family(name)
