"""Score a finished search on the true classes of its target, afterwards; nothing that searches may import this."""

from ray_tl.scoring.evaluation import Evaluation, evaluate
from ray_tl.scoring.records import LedgerRow, Totals, read_ledger, totals

__all__ = ["Evaluation", "LedgerRow", "Totals", "evaluate", "read_ledger", "totals"]
