"""What a trial leaves on disk: its checkpoint and its evidence, never half-written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_tl.files import write_atomically
from ray_tl.selection import LabelledPredictions, TrialEvidence
from ray_tl.validation.evidence import FinalEvidence, from_log_probabilities, log_probabilities

State = dict[str, Any]
CHOICE_LABELS_FILE = "choice_labels.npy"  # of the study, read by who chooses alone: no trial opens it


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
        import torch  # here, because who reads evidence alone does without

        write_atomically(self.checkpoint, lambda file: torch.save(state, file))

    def load_checkpoint(self) -> State | None:
        """The last checkpoint, on the CPU; `None` if there is none."""
        import torch

        if not self.checkpoint.is_file():
            return None
        state: State = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        return state

    def save_evidence(self, probabilities: dict[str, NDArray[np.float32]]) -> None:
        """Probabilities by domain: `source_holdout`, `target`, `target_test` and `target_choice` where there are such.

        Their logarithms are kept in half precision: a probability comes back within 0.0005, and one that is nearly 0
        or 1 much closer.
        """
        arrays = {name: log_probabilities(values) for name, values in probabilities.items()}
        write_atomically(self.evidence, lambda file: np.savez(file, allow_pickle=False, **arrays))

    def load_evidence(self) -> dict[str, NDArray[np.float32]]:
        """Probabilities by domain, [N, C]."""
        with np.load(self.evidence, allow_pickle=False) as file:
            return {name: _probabilities(file[name]) for name in file.files}

    @property
    def final_evidence(self) -> Path:
        return self.folder / "evidence" / f"{self.number:04d}-final.npz"

    def save_final_evidence(self, evidence: FinalEvidence) -> None:
        """Features, mixtures and head of the network that the trial ended as."""
        write_atomically(self.final_evidence, evidence.save)

    def load_final_evidence(self) -> FinalEvidence | None:
        """`None` if the trial left none, as one that has not run to its end, or of an older study."""
        return FinalEvidence.load(self.final_evidence) if self.final_evidence.is_file() else None

    def load_trial_evidence(self) -> TrialEvidence:
        """All that a rule of choice may look at, labels that were given for the choice among it."""
        outputs, labels = self.load_evidence(), self.folder / CHOICE_LABELS_FILE
        labelled = None
        if "target_choice" in outputs and labels.is_file():
            labelled = LabelledPredictions(outputs["target_choice"], np.load(labels, allow_pickle=False))
        return TrialEvidence(outputs["source_holdout"], outputs["target"], self.load_final_evidence(), labelled)


def _probabilities(stored: NDArray[np.floating]) -> NDArray[np.float32]:
    """Older studies hold probabilities themselves, in single precision."""
    return from_log_probabilities(stored) if stored.dtype == np.float16 else stored.astype(np.float32)
