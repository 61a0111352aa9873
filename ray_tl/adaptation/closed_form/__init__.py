"""Which classical method solves a head for frozen features in one go?"""

from ray_tl.adaptation.closed_form import alignment, probes
from ray_tl.adaptation.closed_form.method import CLOSED_FORM, ClosedForm, load_closed_form_head

__all__ = ["CLOSED_FORM", "ClosedForm", "alignment", "load_closed_form_head", "probes"]
