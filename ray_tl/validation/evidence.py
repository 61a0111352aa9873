"""What a trained network says about its domains: all that validators may look at."""

from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ray_tl.neighbours import LabelledSpace

Array = NDArray[np.floating]
LEAST_LOG = -200.0  # of a probability


@dataclass(frozen=True)
class Features:
    """Features of some rows of a domain, as the head of the network sees them.

    Attributes:
        rows: Which rows of the probabilities of the domain these are, int64 [R]; for `training`, of the source.
        values: [R, D].
    """

    rows: NDArray[np.int64]
    values: Array


@dataclass(frozen=True)
class SourceEvidence:
    """On labelled source examples.

    Attributes:
        probabilities: Softmax on held-out examples, [N, C].
        labels: True classes of them, [N].
        features: Of held-out examples; left by a trial that has ended.
        training: Features of examples that the network was trained on; left by a trial that has ended.
        training_labels: Of the rows of `training`, [S].
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    features: Features | None = None
    training: Features | None = None
    training_labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Mixes:
    """Predictions on mixtures of two target examples, `ratio` of the first and the rest of the second.

    Attributes:
        first: Rows of the target, [K].
        second: Rows of the target, [K].
        ratio: In (0.5, 1).
        probabilities: Softmax on the mixtures, [K, C].
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    ratio: float
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class TargetEvidence:
    """On unlabelled target examples; there is no place for a label.

    Attributes:
        probabilities: Softmax, [M, C].
        reference: Space that no trial trains, where there is one.
        logits: Of which the probabilities are the softmax, each row less its mean, [M, C].
        features: Left by a trial that has ended.
        mixes: Left by a trial that has ended.
        head: Weights of a linear head, [C, D]; `None` for another one.
        shares: Share of each class in the target, [C], where users state it or the rule of choice knows it.
    """

    probabilities: NDArray[np.float32]
    reference: LabelledSpace | None = None
    logits: Array | None = None
    features: Features | None = None
    mixes: Mixes | None = None
    head: Array | None = None
    shares: tuple[float, ...] | None = None

    def histogram(self) -> NDArray[np.float64]:
        """Share of each class among the predictions, [C], sums to 1."""
        classes = self.probabilities.shape[1]
        counts = np.bincount(self.probabilities.argmax(axis=1), minlength=classes)
        return counts / max(1, counts.sum())


@dataclass(frozen=True)
class PoolEvidence:
    """What the trials of a study say together.

    Attributes:
        probabilities: Mean softmax of all trials on the target, [M, C].
    """

    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class FinalEvidence:
    """What a trial that has ended leaves beside its probabilities, in half precision and of a bounded number of rows.

    Attributes:
        features: By domain: `source`, whose rows are those of the training examples, `source_holdout` and `target`.
        training_labels: Of the rows of `source`, int64 [S].
        holdout_labels: Of all recorded rows of the hold-out, int64 [N].
        mixes: On target examples; `None` where there are fewer than two.
        head: Weights of a linear head, [C, D]; `None` for another one.
    """

    features: dict[str, Features]
    training_labels: NDArray[np.int64]
    holdout_labels: NDArray[np.int64]
    mixes: Mixes | None = None
    head: Array | None = None

    def source(self, probabilities: NDArray[np.float32]) -> SourceEvidence:
        """All that validators may know of the source, with probabilities on the hold-out, [N, C]."""
        held_out, training = self.features["source_holdout"], self.features["source"]
        return SourceEvidence(probabilities, self.holdout_labels, held_out, training, self.training_labels)

    def target(self, probabilities: NDArray[np.float32], reference: LabelledSpace | None = None) -> TargetEvidence:
        """All that validators may know of the target, with probabilities on it, [M, C]."""
        logits = centred_logits(probabilities)
        return TargetEvidence(probabilities, reference, logits, self.features["target"], self.mixes, self.head)

    def save(self, file: IO[bytes]) -> None:
        arrays: dict[str, NDArray[np.generic]] = {
            "training_labels": self.training_labels.astype(np.int32),
            "holdout_labels": self.holdout_labels.astype(np.int32),
        }
        for name, each in self.features.items():
            arrays |= {f"rows.{name}": each.rows.astype(np.int32), f"features.{name}": _half(each.values)}
        if self.mixes is not None:
            mixes = self.mixes
            arrays |= {"mixes.first": mixes.first.astype(np.int32), "mixes.second": mixes.second.astype(np.int32)}
            arrays |= {"mixes.ratio": np.array(mixes.ratio), "mixes.log": log_probabilities(mixes.probabilities)}
        if self.head is not None:
            arrays["head"] = _half(self.head)
        np.savez(file, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, file: IO[bytes]) -> "FinalEvidence":
        with np.load(file, allow_pickle=False) as arrays:
            names = [key.removeprefix("features.") for key in arrays.files if key.startswith("features.")]
            features = {
                name: Features(arrays[f"rows.{name}"].astype(np.int64), arrays[f"features.{name}"].astype(np.float32))
                for name in names
            }
            mixes = None
            if "mixes.log" in arrays.files:
                first, second = (arrays[f"mixes.{name}"].astype(np.int64) for name in ("first", "second"))
                probabilities = from_log_probabilities(arrays["mixes.log"])
                mixes = Mixes(first, second, float(arrays["mixes.ratio"]), probabilities)
            training, holdout = (arrays[name].astype(np.int64) for name in ("training_labels", "holdout_labels"))
            head = arrays["head"].astype(np.float32) if "head" in arrays.files else None
            return cls(features, training, holdout, mixes, head)


def log_probabilities(probabilities: NDArray[np.floating]) -> NDArray[np.float16]:
    """As they are stored: in half precision a logarithm keeps apart what is sure and what is nearly so."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(probabilities.astype(np.float32)), LEAST_LOG).astype(np.float16)


def from_log_probabilities(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    """Probabilities [N, C] whose rows sum to 1, from stored logarithms."""
    wide = np.exp(stored.astype(np.float32))
    probabilities: NDArray[np.float32] = wide / wide.sum(axis=1, keepdims=True)
    return probabilities


def centred_logits(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Logits of which the probabilities are the softmax, each row less its mean, [N, C]."""
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probabilities.astype(np.float32)), LEAST_LOG)
    centred: NDArray[np.float32] = logits - logits.mean(axis=1, keepdims=True)
    return centred


def _half(values: Array) -> NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    return values.clip(-limit, limit).astype(np.float16)
