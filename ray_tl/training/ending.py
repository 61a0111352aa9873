"""What a trial ends as: its last epoch, its best one, or a soup of the best ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_tl.config import TrialConfig
from ray_tl.models.transfer_model import TransferModel
from ray_tl.selection import SelectionRule
from ray_tl.training.averaging import KeptEpoch, Weights, best_epochs, greedy_soup, mean_weights, on_cpu
from ray_tl.training.stopping import EARLY_STOPPING


@dataclass(frozen=True)
class End:
    """The network that a trial ends as.

    Attributes:
        is_mixed: Whether it is a mean, so that its running statistics have to be taken anew.
    """

    weights: Weights
    is_mixed: bool


class Ending:
    """Objectives of a trial's epochs, and the networks that it may end as.

    Args:
        config: The whole trial.
        rule: Says what is maximised.
        num_mixed: So many of the best epochs may be mixed at the end.

    Attributes:
        history: Label-free objective of each finished epoch.
        notes: What the trial ended as, in words, once it has ended.
    """

    def __init__(self, config: TrialConfig, rule: SelectionRule, num_mixed: int) -> None:
        self._stopping = EARLY_STOPPING.create(config.early_stopping.name, config.early_stopping.params)
        self._num_epochs, self._num_mixed = config.epochs, num_mixed
        self._num_kept = max(num_mixed, int(self._stopping.keeps_best))
        self._rule = rule
        self._kept: list[KeptEpoch] = []
        self.history: list[float] = []
        self.notes: list[str] = []

    def objective(self, scores: Mapping[str, float], histogram: Sequence[float]) -> float:
        """The label-free objective, as the search computes it."""
        return self._rule.objective(scores, histogram)

    def remember(
        self, epoch: int, scores: Mapping[str, float], histogram: Sequence[float], model: TransferModel
    ) -> None:
        """Take note of a finished epoch, counted from 1, and of the network as it was evaluated."""
        value = self.objective(scores, histogram)
        self.history.append(value)
        if self._num_kept:
            self._kept = best_epochs([*self._kept, KeptEpoch(epoch, value, on_cpu(model.state_dict()))], self._num_kept)

    def has_come(self, epoch: int) -> bool:
        """Whether the trial is over after this epoch."""
        return epoch == self._num_epochs or self._stopping.stops(self.history)

    def choose(self, epoch: int, judge: Callable[[Weights], float]) -> End | None:
        """The network that the trial ends as; `None` for that of its last epoch, as it is.

        Args:
            epoch: The last one, counted from 1.
            judge: Objective of the network with such weights.
        """
        stopped = f"it stopped early, after epoch {epoch} of {self._num_epochs}; " if epoch < self._num_epochs else ""
        if not self._kept:
            return None
        if self._num_mixed == 0:
            self.notes = [f"{stopped}it is as epoch {self._kept[0].epoch} left it, the best by label-free objective."]
            return End(self._kept[0].weights, is_mixed=False)
        soup = greedy_soup(self._kept, judge)
        self.notes = [f"{stopped}it is the mean of epochs {', '.join(str(each.epoch) for each in soup)} (greedy soup)."]
        return End(mean_weights(soup), is_mixed=len(soup) > 1)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs."""
        return {"history": list(self.history), "kept": [vars(each) for each in self._kept]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; one of before there was any is empty."""
        self.history = list(state.get("history", []))
        self._kept = [KeptEpoch(**each) for each in state.get("kept", [])]
