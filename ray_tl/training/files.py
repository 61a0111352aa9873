"""What a trial leaves on disk: its checkpoint and its evidence, never half-written."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ray_tl.selection import LabelledPredictions, TrialEvidence
from ray_tl.study.artifacts import Artifacts, FolderArtifacts
from ray_tl.validation.evidence import FinalEvidence, from_log_probabilities, log_probabilities

if TYPE_CHECKING:
    from ray_tl.study.store import StudyStore

State = dict[str, Any]
CHOICE_LABELS_FILE = "choice_labels.npy"  # of the study, read by who chooses alone: no trial opens it


@dataclass(frozen=True)
class TrialFiles:
    """Files of one trial.

    Attributes:
        folder: Of the study.
        number: Of the trial.
        kept: Where the files are; in the folder, by default. On a cluster, all nodes reach it.
    """

    folder: Path
    number: int
    kept: Artifacts | None = None

    @classmethod
    def of(cls, store: "StudyStore", number: int) -> Self:
        """The files of a trial, where its study keeps them."""
        return cls(store.folder, number, store.artifacts)

    @property
    def checkpoint(self) -> Path:
        """Local path of the checkpoint; it exists if the study keeps its files in its folder, or once it was read."""
        return self.folder / self._checkpoint

    @property
    def evidence(self) -> Path:
        """Local path of the predictions; see `checkpoint`."""
        return self.folder / self._evidence

    @property
    def final_evidence(self) -> Path:
        """Local path of the features, mixtures and head; see `checkpoint`."""
        return self.folder / self._final_evidence

    @property
    def place(self) -> str:
        """Path or address of the checkpoint, for messages."""
        return f"{self._artifacts}/{self._checkpoint}"

    def save_checkpoint(self, state: State) -> None:
        """Replace the checkpoint; a kill at any moment leaves the old one or the new one, whole."""
        import torch  # here, because who reads evidence alone does without

        self._artifacts.write(self._checkpoint, lambda file: torch.save(state, file))

    def load_checkpoint(self) -> State | None:
        """The last checkpoint, on the CPU; `None` if there is none."""
        import torch

        try:
            file = self._artifacts.open(self._checkpoint)
        except FileNotFoundError:
            return None
        with file:
            state: State = torch.load(file, map_location="cpu", weights_only=True)
        return state

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint, if there is one."""
        self._artifacts.remove(self._checkpoint)

    def save_evidence(self, probabilities: dict[str, NDArray[np.float32]]) -> None:
        """Probabilities by domain: `source_holdout`, `target`, `target_test` and `target_choice` where there are such.

        Their logarithms are kept in half precision: a probability comes back within 0.0005, and one that is nearly 0
        or 1 much closer.
        """
        arrays = {name: log_probabilities(values) for name, values in probabilities.items()}
        self._artifacts.write(self._evidence, lambda file: np.savez(file, allow_pickle=False, **arrays))

    def load_evidence(self) -> dict[str, NDArray[np.float32]]:
        """Probabilities by domain, [N, C]."""
        with self._artifacts.open(self._evidence) as opened, np.load(opened, allow_pickle=False) as file:
            return {name: _probabilities(file[name]) for name in file.files}

    def save_final_evidence(self, evidence: FinalEvidence) -> None:
        """Features, mixtures and head of the network that the trial ended as."""
        self._artifacts.write(self._final_evidence, evidence.save)

    def load_final_evidence(self) -> FinalEvidence | None:
        """`None` if the trial left none, as one that has not run to its end, or of an older study."""
        try:
            file = self._artifacts.open(self._final_evidence)
        except FileNotFoundError:
            return None
        with file:
            return FinalEvidence.load(file)

    def load_trial_evidence(self) -> TrialEvidence:
        """All that a rule of choice may look at, labels that were given for the choice among it."""
        outputs, labels = self.load_evidence(), self.folder / CHOICE_LABELS_FILE
        labelled = None
        if "target_choice" in outputs and labels.is_file():
            labelled = LabelledPredictions(outputs["target_choice"], np.load(labels, allow_pickle=False))
        return TrialEvidence(outputs["source_holdout"], outputs["target"], self.load_final_evidence(), labelled)

    @property
    def _artifacts(self) -> Artifacts:
        return self.kept or FolderArtifacts(self.folder)

    @property
    def _checkpoint(self) -> str:
        return f"checkpoints/{self.number:04d}.pt"

    @property
    def _evidence(self) -> str:
        return f"evidence/{self.number:04d}.npz"

    @property
    def _final_evidence(self) -> str:
        return f"evidence/{self.number:04d}-final.npz"


def _probabilities(stored: NDArray[np.floating]) -> NDArray[np.float32]:
    """Older studies hold probabilities themselves, in single precision."""
    return from_log_probabilities(stored) if stored.dtype == np.float16 else stored.astype(np.float32)
