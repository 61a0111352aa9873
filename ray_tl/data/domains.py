"""Domains in memory: labelled, unlabelled, and the pair that a trial is given."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ray_tl.data.preprocessing import AnyPreprocessing
from ray_tl.neighbours import LabelledSpace

Inputs = NDArray[np.uint8] | NDArray[np.int32]


@dataclass(frozen=True)
class UnlabelledDomain:
    """Examples without labels: there is no way to ask for one.

    Attributes:
        name: For people.
        inputs: Images, uint8 [N, C, S, S], or texts as numbers of tokens, int32 [N, L]; see `ray_tl.tokens`.
        ids: One for each example, unique: the relative path, or a row number.
    """

    name: str
    inputs: Inputs
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)

    def fingerprint(self) -> str:
        """SHA-256 of inputs and their shape, in hex."""
        digest = hashlib.sha256(repr(self.inputs.shape).encode())
        digest.update(np.ascontiguousarray(self.inputs).data)
        return digest.hexdigest()

    def without_names(self) -> "UnlabelledDomain":
        """The inputs alone, under row numbers: a path may hold the name of a class."""
        return UnlabelledDomain(self.name, self.inputs, tuple(str(row) for row in range(len(self))))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        return replace(self, inputs=self.inputs[rows], ids=tuple(self.ids[row] for row in rows))


@dataclass(frozen=True)
class LabelledDomain(UnlabelledDomain):
    """Examples with labels.

    Attributes:
        labels: Class numbers, int64 [N].
        classes: Their names.
    """

    labels: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    classes: tuple[str, ...] = ()

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        return replace(super().take(rows), labels=self.labels[rows])


@dataclass(frozen=True)
class DomainPair:
    """All data of one study.

    Attributes:
        source: Labelled, for training.
        source_holdout: Labelled, same domain, never trained on: source accuracy is measured here.
        target: Unlabelled, for adaptation and for choosing without labels.
        preprocessing: How the inputs were made from files.
        target_test: Unlabelled, never trained on: every trial's predictions on it are recorded, so that whoever has
            its labels can score the search afterwards.
        target_labelled: The few examples of the target whose labels a person has given for training.
        target_choice: Those whose labels are given for the choice of the champion: trials get their inputs alone.
        intermediate: Domains on the way from source to target, in order; a `LabelledDomain` has the source's classes.
        auxiliary: Another labelled task, with classes of its own.
        reference: Space that no trial trains, where the choice of a trial asks for it.
    """

    source: LabelledDomain
    source_holdout: LabelledDomain
    target: UnlabelledDomain
    preprocessing: AnyPreprocessing
    target_test: UnlabelledDomain | None = None
    target_labelled: LabelledDomain | None = None
    intermediate: tuple[UnlabelledDomain, ...] = ()
    auxiliary: LabelledDomain | None = None
    reference: LabelledSpace | None = None
    target_choice: UnlabelledDomain | None = None

    @property
    def modality(self) -> str:
        """`images` or `text`."""
        return self.preprocessing.modality

    @property
    def num_classes(self) -> int:
        return len(self.source.classes)

    def for_trials(self) -> "DomainPair":
        """What trials are given: nothing of a target but its inputs."""
        test = self.target_test.without_names() if self.target_test is not None else None
        between = tuple(
            domain if isinstance(domain, LabelledDomain) else domain.without_names() for domain in self.intermediate
        )
        few = self.target_choice.without_names() if self.target_choice is not None else None
        target = self.target.without_names()
        return replace(self, target=target, target_test=test, target_choice=few, intermediate=between)

    def with_whole_source(self) -> "DomainPair":
        """The same pair, in which held-out examples are trained on too: what is measured on them says nothing then."""
        parts = self.source, self.source_holdout
        whole = LabelledDomain(
            name=self.source.name,
            inputs=np.concatenate([part.inputs for part in parts]),
            ids=(*self.source.ids, *self.source_holdout.ids),
            labels=np.concatenate([part.labels for part in parts]),
            classes=self.source.classes,
        )
        return replace(self, source=whole)

    def fingerprint(self) -> str:
        """SHA-256 over all domains and their labels, in hex."""
        digest = hashlib.sha256()
        for domain in (self.source, self.source_holdout, self.target, self.target_test, self.target_labelled):
            digest.update(domain.fingerprint().encode() if domain is not None else b"-")
        for labelled in (self.source, self.source_holdout, self.target_labelled):
            digest.update(np.ascontiguousarray(labelled.labels).data if labelled is not None else b"-")
        digest.update("\0".join(self.source.classes).encode())
        for name, further in self._further():  # nothing is added where there are none: older studies go on
            digest.update(f"{name} {further.fingerprint()}".encode())
            if isinstance(further, LabelledDomain):
                digest.update("\0".join(further.classes).encode() + np.ascontiguousarray(further.labels).tobytes())
        return digest.hexdigest()

    def _further(self) -> list[tuple[str, UnlabelledDomain]]:
        between = [(f"intermediate {number}", domain) for number, domain in enumerate(self.intermediate)]
        others = {"auxiliary": self.auxiliary, "target_choice": self.target_choice}
        return between + [(name, domain) for name, domain in others.items() if domain is not None]


@dataclass(frozen=True)
class OracleLabels:
    """True classes of a target domain by image id. Only scoring, benchmarks and tests may hold one."""

    labels: dict[str, str]
