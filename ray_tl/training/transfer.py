"""By which way a trial goes from source to target: at once, or over domains between them."""

from dataclasses import dataclass
from typing import Protocol

from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry

EXACT = 1e-9  # boundaries are sums of shares, and progress is a quotient


@dataclass(frozen=True)
class TransferContext:
    """What a way may know: how many intermediate domains there are."""

    num_intermediate: int = 0


@dataclass(frozen=True)
class Leg:
    """One part of the way.

    Attributes:
        target: Number of the intermediate domain in the target's place; `None` for the target itself.
        num_joined: Intermediate domains, from the first on, whose labelled examples count as source.
        adapts: Whether other losses than the task count.
    """

    target: int | None = None
    num_joined: int = 0
    adapts: bool = True


class Transfer(Protocol):
    """A way from source to target."""

    def leg_at(self, progress: float) -> Leg:
        """The part that an epoch belongs to which begins at `progress`, in [0, 1) of full fidelity."""
        ...

    def last_leg(self) -> Leg:
        """The part that ends at the target."""
        ...


TRANSFERS: Registry[Transfer] = Registry("transfer")


@TRANSFERS.register("direct")
class Direct:
    """From source to target at once; intermediate domains are left out."""

    def __init__(self, context: TransferContext) -> None: ...

    def leg_at(self, progress: float) -> Leg:
        return Leg()

    def last_leg(self) -> Leg:
        return Leg()


@TRANSFERS.register("staged", ranges={"share": {"uniform": [0.05, 0.25]}, "pretraining": {"uniform": [0.0, 0.3]}})
class Staged:
    """The source alone first, then one intermediate domain after the other, then the target.

    Each domain in turn stands in the target's place, and what is labelled of it counts as source from then on: the gap
    is crossed in small steps, as in Kumar et al., "Understanding Self-Training for Gradual Domain Adaptation", 2020,
    https://arxiv.org/abs/2002.11361, section 3, here with any method. Departure: source and earlier domains stay.
    Methods that look at the whole source before an epoch see from the start what will join it.

    A part begins with the first epoch at or after its share; one in which no epoch begins is passed over. Validation
    and choice always look at the target itself, so an early part may look worse than it is: give the search enough
    `grace_epochs`.

    Args:
        context: Gives the number of intermediate domains.
        share: Of the progress, for each intermediate domain, above 0.
        pretraining: Share of the progress in which only the task counts, on the source, 0..0.9.

    Raises:
        InvalidInput: If there are no intermediate domains, or nothing is left for the target.
    """

    def __init__(self, context: TransferContext, *, share: float = 0.2, pretraining: float = 0.0) -> None:
        count = context.num_intermediate
        if count == 0:
            raise InvalidInput(
                "transfer='staged' needs intermediate domains; give their folders, in order, with --intermediate, or "
                "choose transfer: direct."
            )
        if share <= 0 or not 0 <= pretraining <= 0.9 or pretraining + count * share > 1 - EXACT:
            raise InvalidInput(
                f"staged.share={share} for each of {count} intermediate domains and pretraining={pretraining} must "
                "leave some of the progress to the target: choose them above 0, and below 1 together."
            )
        self._ends = [pretraining + (number + 1) * share for number in range(count)]
        self._pretraining = pretraining

    def leg_at(self, progress: float) -> Leg:
        if progress < self._pretraining - EXACT:
            return Leg(target=0, adapts=False)
        passed = sum(progress >= end - EXACT for end in self._ends)
        return Leg(target=passed, num_joined=passed + 1) if passed < len(self._ends) else self.last_leg()

    def last_leg(self) -> Leg:
        return Leg(num_joined=len(self._ends))
