"""What will a search do? Mistakes are found, and first trials chosen, before anything runs."""

from ray_tl.planning.compatibility import Room
from ray_tl.planning.plan import Plan, plan_resumption, plan_search

__all__ = ["Plan", "Room", "plan_resumption", "plan_search"]
