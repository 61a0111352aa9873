"""What one trial did to the domains, and which classes it recognises: of its last epoch, without a target label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_tl.study.records import TrialRecord

GAPS = {"domain_accuracy": "told apart", "mmd": "MMD", "coral": "CORAL"}
SHOWN_CLASSES = 12


@dataclass(frozen=True)
class Examination:
    """Of a trial that has reported.

    Attributes:
        trial: Its number.
        epoch: Of which this is so.
        gaps: Before training and now, by measure: `domain_accuracy` in [0, 1], `mmd` and `coral` in units of the spread
            of the features; those that were recorded.
        recalls: Share of the source hold-out that is recognised, by class; `None` for a class that it lacks. Empty in
            studies from before it was recorded.
    """

    trial: int
    epoch: int
    gaps: Mapping[str, tuple[float, float]]
    recalls: Mapping[str, float | None]

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        gaps = {name: {"before": before, "after": after} for name, (before, after) in self.gaps.items()}
        return {"trial": self.trial, "epoch": self.epoch, "domain_gap": gaps, "source_recalls": dict(self.recalls)}

    def lines(self) -> list[str]:
        """For people, the least recognised classes first."""
        shown = []
        if self.gaps:
            parts = [
                f"{GAPS[name]} {_number(name, old)} -> {_number(name, new)}" for name, (old, new) in self.gaps.items()
            ]
            shown.append(f"trial {self.trial}, gap between the domains before -> after training: {', '.join(parts)}")
        known = sorted((value, name) for name, value in self.recalls.items() if value is not None)
        if known:
            parts = [f"{name} {value:.0%}" for value, name in known[:SHOWN_CLASSES]]
            rest = known[SHOWN_CLASSES:]
            parts += [f"and {len(rest)} from {rest[0][0]:.0%} up"] if rest else []
            shown.append(f"trial {self.trial}, recognised of each class of the source hold-out: {', '.join(parts)}")
        return shown


def examined(trial: TrialRecord, classes: Sequence[str]) -> Examination | None:
    """What the last epoch of a trial says; `None` if there is none."""
    if trial.last is None:
        return None
    health = trial.last.health
    names = [name for name in GAPS if name in health and f"{name}_before" in health]
    return Examination(
        trial=trial.number,
        epoch=trial.last.epoch,
        gaps={name: (health[f"{name}_before"], health[name]) for name in names},
        recalls=dict(zip(classes, trial.last.source_recalls, strict=False)),
    )


def _number(name: str, value: float) -> str:
    return f"{value:.0%}" if name == "domain_accuracy" else f"{value:.2g}"
