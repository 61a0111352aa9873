"""What is done about classes of very unequal size in the source: rows drawn, losses weighted, or new rows made."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from ray_tl.collectives import rank, world_size
from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.randomness import derive_seed, generator
from ray_tl.registry import Registry

LARGEST_SEED = 2**32 - 1  # of NumPy's generators


class ClassBalance:
    """A way to even out the classes of the source; nothing is done unless a subclass says so.

    It looks at the labels of the source rows that are trained on, intermediate domains that have joined included, and
    never at a label of the target.

    Attributes:
        num_neighbours: Rows of its class, nearest to a row, towards which new ones are made of it; 0 for no new rows.
    """

    num_neighbours: int = 0

    def shares(self, counts: Tensor) -> Tensor | None:
        """Share of each class among the source rows of an epoch, [C]; `None` for those that it has.

        Args:
            counts: Rows of each class, int64 [C], at least one above 0.
        """
        return None

    def weights(self, counts: Tensor) -> Tensor | None:
        """Weight of each class in the task loss on the source, [C]; `None` where all weigh 1.

        Args:
            counts: Rows of each class, int64 [C], at least one above 0.
        """
        return None


CLASS_BALANCES: Registry[ClassBalance] = Registry("class balance")


@CLASS_BALANCES.register("none")
class Unbalanced(ClassBalance):
    """Classes as frequent as they are."""


@CLASS_BALANCES.register("sampling", ranges={"share": {"uniform": [0.5, 1.0]}})
class Sampling(ClassBalance):
    """Rare classes are drawn more often, frequent ones less, in an epoch as long as before.

    Buda et al., "A systematic study of the class imbalance problem in convolutional neural networks", 2018,
    https://arxiv.org/abs/1710.05381, which finds that oversampling until classes are equal helps most. Departure: an
    epoch keeps its number of steps, so that trials of a study cost the same; each epoch draws other rows of the
    frequent classes. Closed-form methods see every row, those of rare classes repeatedly.

    Args:
        share: How far the shares of the classes are moved from the source's own (0) to equal (1), above 0, up to 1.
    """

    def __init__(self, *, share: float = 1.0) -> None:
        _require_share("sampling.share", share)
        self.share = share

    def shares(self, counts: Tensor) -> Tensor:
        return torch.lerp(_shares(counts), _shares(counts.clamp(max=1)), self.share)


@CLASS_BALANCES.register("weights", ranges={"power": {"uniform": [0.5, 1.0]}})
class Weights(ClassBalance):
    """Rare classes weigh more in the task loss on the source: frequency to a negative power.

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", 2019, https://arxiv.org/abs/1901.05555,
    name both usual powers: 1, inverse frequency, and 0.5, its square root, which follows a few rare rows less closely.
    The mean weight over the rows of the source is 1. Losses are divided by the number of rows, not by the sum of their
    weights, so that the mean over the ranks is that of the joint batch; with smoothed or mixed labels each class of a
    label has its own weight. Where a method weighs rows itself, both weights are multiplied. Only the loss `task` is
    weighted, and of it what the source contributes. Closed-form methods see rows of rare classes repeatedly instead.

    Args:
        power: 1 lets all classes weigh the same together, near 0 nothing is weighted; above 0, up to 1.
    """

    def __init__(self, *, power: float = 1.0) -> None:
        _require_share("weights.power", power)
        self.power = power

    def weights(self, counts: Tensor) -> Tensor:
        return inverse_frequency_weights(counts, self.power)


@CLASS_BALANCES.register("smote", ranges={"k": {"int": [3, 10]}})
class Smote(ClassBalance):
    """New rows of rare classes between neighbours in frozen features, until classes are equal.

    Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", 2002, https://arxiv.org/abs/1106.1813; see
    `synthetic_rows`. An epoch is as long as before and draws all classes equally often, each among its own rows and
    its new ones. Where features are not frozen up to the head there are no new rows, which the findings of the trial
    say; with closed-form methods there always are.

    Args:
        k: Nearest rows of its class towards which new ones are made of a row, 1 or more; where the smallest class has
            fewer others, as many as it has.
    """

    def __init__(self, *, k: int = 5) -> None:
        if k < 1:
            raise InvalidInput(f"smote.k={k} must be 1 or more; 5 is usual.")
        self.num_neighbours = k

    def shares(self, counts: Tensor) -> Tensor:
        return _shares(counts.clamp(max=1))


@dataclass(frozen=True)
class BalancedSource:
    """The source as a part of a trial sees it.

    Attributes:
        rows: What enters the network, [N, ...]; behind the given rows new ones, if there are any.
        labels: Of these, int64 [N].
        weights: Of each class in the task loss, [C]; `None` where all weigh 1.
        draw: So many rows for an epoch; `None` where it takes the given ones in passes.
    """

    rows: Tensor
    labels: Tensor
    weights: Tensor | None
    draw: Callable[[int, torch.Generator], Tensor] | None


class SourceBalance:
    """Evens out the classes of the source of a trial, which grows where domains join it and changes with the phase.

    Args:
        config: The whole trial.
        num_classes: C.
        capacity_bytes: The most that rows may take with new ones among them.
    """

    def __init__(self, config: TrialConfig, num_classes: int, capacity_bytes: int) -> None:
        self._balance = CLASS_BALANCES.create(config.class_balance.name, config.class_balance.params)
        self._name, self._seed = config.class_balance.name, config.seed
        self._num_classes, self._capacity_bytes = num_classes, capacity_bytes
        self.begin_phase(is_frozen=False)

    def begin_phase(self, is_frozen: bool) -> None:
        """Other rows enter the network from now on: those that frozen stages alone give the head, or others."""
        self._is_frozen = is_frozen
        self._enlarged: dict[int, tuple[Tensor, Tensor]] = {}
        self._missing = ""

    def balanced(self, rows: Tensor, labels: Tensor, num_rows: int) -> BalancedSource:
        """The source evened out.

        Args:
            rows: [N, ...].
            labels: int64 [N].
            num_rows: How many of them, from the first on, are trained on now; new ones are made of these, and join
                these alone.
        """
        given = labels[:num_rows]
        counts = class_counts(given, self._num_classes)
        self._missing = self._missing_for_new_rows(rows[:num_rows], counts)
        if self._balance.num_neighbours and not self._missing:
            rows, labels = self._with_new_rows(rows[:num_rows], given)
            given = labels
        shares = self._balance.shares(counts)
        draw = None if shares is None else partial(drawn_rows, given, shares)
        return BalancedSource(rows, labels, self._balance.weights(counts), draw)

    def notes(self) -> list[str]:
        """Whether rows that were asked for could not be made, and what became of it."""
        if not self._missing:
            return []
        return [f"class_balance {self._name!r} needs {self._missing}; classes were sampled evenly instead."]

    def _missing_for_new_rows(self, rows: Tensor, counts: Tensor) -> str:
        """What new rows would need that is not there; nothing where none are to be made."""
        if self._balance.num_neighbours == 0 or len(rows) in self._enlarged:
            return ""
        if not self._is_frozen:
            return "frozen features"
        if int(counts.max() * (counts > 0).sum()) * rows[0].nbytes > self._capacity_bytes:
            return "frozen features that fit into memory with the new ones"
        return "" if rows.isfinite().all() else "finite features"

    def _with_new_rows(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(rows) not in self._enlarged:
            # One rank makes them for all: machines of different make may differ in which rows are nearest.
            made = [self._new_rows(rows, labels) if rank() == 0 else None]
            if world_size() > 1:
                dist.broadcast_object_list(made, 0)
            assert made[0] is not None
            self._enlarged = {len(rows): (torch.cat([rows, made[0][0]]), torch.cat([labels, made[0][1]]))}
        return self._enlarged[len(rows)]

    def _new_rows(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return synthetic_rows(rows, labels, self._balance.num_neighbours, smote_seed(self._seed))


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Rows of each class, int64 [C], of labels int64 [N]."""
    return torch.bincount(labels, minlength=num_classes)


def inverse_frequency_weights(counts: Tensor, power: float) -> Tensor:
    """Weights of classes, [C], proportional to frequency^-power, of mean 1 over all rows; a class without rows has 0.

    Args:
        counts: Rows of each class, int64 [C].
        power: In 0..1; at 0 all weigh 1.
    """
    weights = torch.where(counts > 0, counts.clamp_min(1).double() ** -power, 0.0)
    return weights * counts.sum() / (weights * counts).sum()


def drawn_rows(labels: Tensor, shares: Tensor, num_rows: int, random: torch.Generator) -> Tensor:
    """So many rows in random order, int64 [num_rows], whose classes have these shares to within one row.

    No row of a class is drawn again before all of that class have been.

    Args:
        labels: int64 [N].
        shares: Of each class, [C], sum 1; 0 where there is no row.
        num_rows: At least 1.
        random: All that the answer depends on beside these.
    """
    wanted = _apportioned(shares, num_rows, random)
    rows = _rows_of_classes(labels, wanted, random)
    return rows[torch.randperm(num_rows, generator=random)]


def repeated_rows(labels: Tensor, shares: Tensor, random: torch.Generator) -> Tensor:
    """Every row once, and then again of rare classes until classes have these shares, int64 [R], R >= N.

    Args:
        labels: int64 [N].
        shares: Of each class, [C], sum 1; 0 where there is no row and only there.
        random: Says which rows are repeated where not all of a class are equally often.
    """
    counts = class_counts(labels, len(shares))
    total = (counts / shares)[counts > 0].max()  # the most frequent class, relative to its share, is not repeated
    further = (shares * total).round().long() - counts
    return torch.cat([torch.arange(len(labels)), _rows_of_classes(labels, further, random)])


def synthetic_rows(rows: Tensor, labels: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """What makes every class as frequent as the most frequent: new rows [M, D] and their labels, int64 [M].

    A new row lies at random on the line between a row and one of its k nearest of the same class
    (`imblearn.over_sampling.SMOTE`). A class of one row has no line: that row is repeated.

    Args:
        rows: Features [N, D], finite.
        labels: int64 [N].
        k: At least 1; no more count than the smallest class that has lines has other rows.
        seed: Its last 32 bits count.
    """
    counts = dict(enumerate(torch.bincount(labels).tolist()))
    most = max(counts.values())
    rare = {label: count for label, count in counts.items() if 1 < count < most}
    alone = [int((labels == label).nonzero()) for label, count in counts.items() if count == 1 < most]
    repeated = torch.tensor(alone, dtype=torch.int64).repeat_interleave(most - 1)
    made, made_labels = _interpolated(rows, labels, rare, most, min(k, min(rare.values(), default=2) - 1), seed)
    return torch.cat([made, rows[repeated]]), torch.cat([made_labels, labels[repeated]])


def balanced_domain(balance: ClassBalance, rows: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A domain for a method that looks at it once, as a whole: with new rows, or with rows of rare classes repeated.

    Weights become repetitions: a class counts as much as it would with them. Rows that are not finite stay as they
    are, for the method to say so.

    Args:
        balance: Of the trial.
        rows: Features [N, D].
        labels: int64 [N].
        seed: Of the trial.
    """
    if not rows.isfinite().all():
        return rows, labels
    if balance.num_neighbours:
        made = synthetic_rows(rows, labels, balance.num_neighbours, smote_seed(seed))
        return torch.cat([rows, made[0]]), torch.cat([labels, made[1]])
    counts = torch.bincount(labels)
    weights, shares = balance.weights(counts), balance.shares(counts)
    shares = shares if weights is None else _shares(weights * counts)
    if shares is None:
        return rows, labels
    chosen = repeated_rows(labels, shares, generator(seed, "class_balance"))
    return rows[chosen], labels[chosen]


def smote_seed(seed: int) -> int:
    """Of the new rows of a trial."""
    return derive_seed(seed, "smote")


def _shares(counts: Tensor) -> Tensor:
    return counts.double() / counts.sum()


def _apportioned(shares: Tensor, num_rows: int, random: torch.Generator) -> Tensor:
    """So many rows shared out by largest remainders, chance deciding among equal ones; int64 [C]."""
    exact = shares.double() * num_rows
    whole = exact.floor()
    order = torch.randperm(len(shares), generator=random)
    order = order[(exact - whole)[order].argsort(descending=True, stable=True)]
    whole[order[: num_rows - int(whole.sum())]] += 1
    return whole.long()


def _rows_of_classes(labels: Tensor, numbers: Tensor, random: torch.Generator) -> Tensor:
    """So many rows of each class, in passes over it, class by class."""
    parts = [
        _in_passes((labels == label).nonzero().flatten(), number, random)
        for label, number in enumerate(numbers.tolist())
        if number > 0
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)


def _in_passes(rows: Tensor, number: int, random: torch.Generator) -> Tensor:
    passes = -(-number // len(rows))
    orders = [torch.randperm(len(rows), generator=random) for _ in range(passes)]
    return rows[torch.cat(orders)[:number]]


def _interpolated(
    rows: Tensor, labels: Tensor, rare: Collection[int], most: int, k: int, seed: int
) -> tuple[Tensor, Tensor]:
    """New rows of rare classes, and their labels, until each has `most`."""
    if not rare:
        return rows[:0], labels[:0]
    from imblearn.over_sampling import SMOTE  # takes a second, which other trials need not spend

    sampler = SMOTE(sampling_strategy=dict.fromkeys(rare, most), k_neighbors=k, random_state=seed & LARGEST_SEED)
    wide = rows.detach().cpu().to(torch.promote_types(rows.dtype, torch.float32))
    all_rows, all_labels = sampler.fit_resample(wide.numpy(), labels.cpu().numpy())
    made = torch.from_numpy(all_rows[len(rows) :]).to(rows)
    return made, torch.from_numpy(all_labels[len(rows) :]).to(labels)


def _require_share(field: str, share: float) -> None:
    if not 0 < share <= 1:
        raise InvalidInput(f"{field}={share!r} is out of range; choose above 0, up to 1; 1 is usual.")
