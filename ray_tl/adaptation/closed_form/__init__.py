"""Which classical method solves a head for frozen features in one go?

They are named in the `method` of a search space like any other; `ClosedForm` says what of a trial has no part in it.
"""

from ray_tl.adaptation.closed_form import alignment, probes, zero_shot
from ray_tl.adaptation.closed_form.method import CLOSED_FORM, ClosedForm, is_closed_form, load_closed_form_head

__all__ = ["CLOSED_FORM", "ClosedForm", "alignment", "is_closed_form", "load_closed_form_head", "probes", "zero_shot"]
