"""What a trial leaves on disk: its checkpoint and its evidence, never half-written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ray_tl.files import write_atomically
from ray_tl.neighbours import LabelledSpace

State = dict[str, Any]


@dataclass(frozen=True)
class TrialFiles:
    """Paths of one trial below the folder of its study.

    Attributes:
        folder: Of the study; on a cluster, on storage that all nodes share.
        number: Of the trial.
    """

    folder: Path
    number: int

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / f"{self.number:04d}.pt"

    @property
    def evidence(self) -> Path:
        return self.folder / "evidence" / f"{self.number:04d}.npz"

    def save_checkpoint(self, state: State) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one, whole."""
        write_atomically(self.checkpoint, lambda file: torch.save(state, file))

    def load_checkpoint(self) -> State | None:
        """The last checkpoint, on the CPU; `None` if there is none."""
        if not self.checkpoint.is_file():
            return None
        state: State = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        return state

    def save_evidence(self, arrays: dict[str, NDArray[np.float32]]) -> None:
        """Probabilities by domain: `source_holdout`, `target`, and `target_test` where there is one."""
        write_atomically(self.evidence, lambda file: np.savez(file, allow_pickle=False, **arrays))

    @property
    def space(self) -> Path:
        return self.folder / "evidence" / f"{self.number:04d}-space.npz"

    def save_space(self, space: LabelledSpace) -> None:
        """Who is near whom in the features of the trained network."""
        write_atomically(self.space, space.save)

    def load_space(self) -> LabelledSpace | None:
        """`None` if the trial left none, as one that has not run to its end."""
        return LabelledSpace.load(self.space) if self.space.is_file() else None

    def load_evidence(self) -> dict[str, NDArray[np.float32]]:
        with np.load(self.evidence, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
