"""Scores of a trained network that need no target label.

The pure functions take softmax outputs [N, C], N >= 1, raise `InvalidInput` if there are none and `TrialFailed` if one
is not finite. The classes around them say which evidence they need, and which end is good. Those here look at
confidence alone; what looks further has a module of its own, which `ray_tl.validation` imports.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from ray_tl.errors import Unavailable
from ray_tl.registry import Registry
from ray_tl.validation.checks import needed, usable
from ray_tl.validation.evidence import PoolEvidence, SourceEvidence, TargetEvidence
from ray_tl.validation.metrics import accuracy

SMALLEST_RELATIVE_SHARE = 0.01  # of an even share: a logarithm stays finite
SMALL = 128  # classes or rows up to which singular values take no longer than eigenvalues

Probabilities = NDArray[np.floating]


class Validator(Protocol):
    """A score of a trained network.

    Attributes:
        higher_is_better: Which end is good.
        needs_end: Whether it looks at what only a trial that has ended leaves, so that no epoch can be scored by it:
            features, mixtures, the weights of the head, or the other trials of the pool.
    """

    higher_is_better: bool
    needs_end: bool

    @property
    def score(self) -> Callable[..., float]:
        """`score(source)`, `score(target)`, `score(target, pool)` and so on: argument names state the data it needs.

        It raises `Unavailable` if the evidence lacks what it needs, or if no number follows from it.
        """


VALIDATORS: Registry[Validator] = Registry("validator")


def score_all(
    names: Iterable[str],
    source: SourceEvidence | None,
    target: TargetEvidence,
    pool: PoolEvidence | None = None,
    skip_unavailable: bool = False,
) -> dict[str, float]:
    """The scores of these validators by name, as plain finite numbers.

    Args:
        names: Of validators.
        source: `None` where its labels are not known.
        target: Of the same trial.
        pool: What the trials of a study say together, where there is more than one.
        skip_unavailable: Leave out those that the evidence does not allow, instead of raising `Unavailable`.

    Raises:
        UnknownName: If a name is not registered.
        Unavailable: If the evidence lacks what a validator needs.
        TrialFailed: If the evidence a validator needs is not finite.
    """
    evidence = {"source": source, "target": target, "pool": pool}
    scores = {}
    for name in names:
        try:
            scores[name] = _score(name, evidence)
        except Unavailable:
            if not skip_unavailable:
                raise
    return scores


def looks_at_source(name: str) -> bool:
    """Whether a validator needs the source hold-out: of a network that was trained on it, its score says nothing."""
    return "source" in inspect.signature(VALIDATORS.create(name, {}).score).parameters


def _score(name: str, evidence: Mapping[str, object]) -> float:
    score = VALIDATORS.create(name, {}).score
    return score(
        **{
            need: needed(name, f"the {need} evidence, which is not there", evidence[need])
            for need in inspect.signature(score).parameters
        }
    )


def mean_entropy(probabilities: Probabilities) -> float:
    """Mean entropy of the predictions in nats, in [0, log C].

    Morerio et al., "Minimal-Entropy Correlation Alignment for Unsupervised Deep Domain Adaptation", 2018,
    https://arxiv.org/abs/1711.10288, which chose hyperparameters by it. Lowest, too, when all rows fall in one class.
    """
    return float(entr(usable(probabilities)).sum(axis=1).mean())


def mutual_information(probabilities: Probabilities, shares: Sequence[float] | None = None) -> float:
    """Entropy of the mean prediction less the mean entropy: H(mean p) - mean H(p), in nats, in [0, log C].

    Shi and Sha, "Information-Theoretical Learning of Discriminative Clusters for Unsupervised Domain Adaptation", 2012,
    https://arxiv.org/abs/1206.6438.

    Where the classes of the target are known not to be equally frequent: log C - KL(mean p || shares) - mean H(p), at
    most log C, as the training loss has it. Below 0 where predictions are far from the shares.

    Args:
        probabilities: Softmax, [N, C].
        shares: Share of each class in the target, [C]; `None` for even ones.
    """
    mean = usable(probabilities).mean(axis=0)
    diversity = entr(mean).sum()
    if shares is not None:
        diversity = diversity + mean @ np.log(_relative(shares))
    return float(diversity) - mean_entropy(probabilities)


def batch_nuclear_norm(probabilities: Probabilities, shares: Sequence[float] | None = None) -> float:
    """Nuclear norm of the matrix of predictions over its rows, ||P||_* / N, in (0, 1].

    Cui et al., "Towards Discriminability and Diversity: Batch Nuclear-norm Maximization", 2020,
    https://arxiv.org/abs/2003.12237; as a validator: Musgrave et al., "Three New Validators and a Large-Scale Benchmark
    Ranking for Unsupervised Domain Adaptation", 2022, https://arxiv.org/abs/2208.07360. It falls with N like
    1 / sqrt(N): compare only scores of equally many rows. Where both N and C are large, singular values are the roots
    of the eigenvalues of the smaller of P^T P and P P^T: more than twice as fast, without a copy of P, and off by about
    1e-6 of the norm where P is of low rank.

    Where the classes of the target are known not to be equally frequent, column c is multiplied by sqrt(C share_c), as
    in the training loss: of sure predictions those with the shares are best.

    Args:
        probabilities: Softmax, [N, C].
        shares: Share of each class in the target, [C]; `None` for even ones.
    """
    wide = usable(probabilities)
    if shares is not None:
        wide = wide * np.sqrt(_relative(shares))
    if min(wide.shape) <= SMALL:
        return float(np.linalg.norm(wide, ord="nuc") / len(wide))
    gram = wide.T @ wide if len(wide) >= wide.shape[1] else wide @ wide.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0)).sum() / len(wide))


def _relative(shares: Sequence[float]) -> NDArray[np.float64]:
    """C times each share, of mean 1, [C]; see `ray_tl.adaptation.target_prior.relative_shares`."""
    wide = np.asarray(shares, dtype=np.float64)
    relative = np.maximum(wide / wide.mean(), SMALLEST_RELATIVE_SHARE)
    return relative / relative.mean()


def class_correlation(probabilities: Probabilities) -> float:
    """Cosine between the class-class correlation P^T P and the identity, in [1 / sqrt(C), 1].

    Tu et al., "Assessing Model Out-of-distribution Generalization with Softmax Prediction Probability Baselines and A
    Correlation Method", 2023, https://openreview.net/forum?id=1maXoEyeqx: tr(P^T P) / (||P^T P||_F sqrt(C)).
    It is 1 when predictions are sure and spread evenly over the classes, 1 / sqrt(C) when they are all alike.
    """
    wide = usable(probabilities)
    correlation = wide.T @ wide
    return float(np.trace(correlation) / (np.linalg.norm(correlation) * np.sqrt(wide.shape[1])))


@VALIDATORS.register("source_accuracy")
class SourceAccuracy:
    """Accuracy on held-out source examples."""

    higher_is_better = True
    needs_end = False

    def score(self, source: SourceEvidence) -> float:
        return accuracy(source.probabilities, source.labels)


@VALIDATORS.register("entropy")
class Entropy:
    """Mean entropy of the target predictions; low when they are sure, right or wrong."""

    higher_is_better = False
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        return mean_entropy(target.probabilities)


@VALIDATORS.register("im")
class InformationMaximisation:
    """Mutual information of target inputs and predictions; high when they are sure and diverse."""

    higher_is_better = True
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        return mutual_information(target.probabilities, target.shares)


@VALIDATORS.register("bnm")
class Bnm:
    """Nuclear norm of the target predictions; high when they are sure and diverse."""

    higher_is_better = True
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        return batch_nuclear_norm(target.probabilities, target.shares)


@VALIDATORS.register("corr_c")
class CorrC:
    """Class correlation of the target predictions; high when classes are sure, even and not confused."""

    higher_is_better = True
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        return class_correlation(target.probabilities)


@VALIDATORS.register("neighbours")
class NeighbourAgreement:
    """Whether target examples that are near one another, by features that no trial can train, get one class.

    The share of neighbours that get one class, less that of any two examples, of the most that could be. Confidence
    does not raise it, and a single class for all scores 0. A departure from soft neighbourhood density (Saito et al.,
    "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood Density", 2021,
    https://arxiv.org/abs/2108.10860), which looks for neighbours among a trial's own outputs, that training can bend.
    """

    higher_is_better = True
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        what = "a k-nearest-neighbour graph of the target, which was not built"
        reference = needed("neighbours", what, target.reference)
        probabilities = usable(target.probabilities)
        if probabilities.shape[1] < 2:
            raise Unavailable("validator 'neighbours' compares classes, and there is one; leave it out.")
        return reference.neighbours.agreement(probabilities.argmax(axis=1), probabilities.shape[1])


@VALIDATORS.register("nearest_labels")
class NearestLabels:
    """Whether target examples get the class of the labelled source examples nearest to them, by fixed features.

    Beyond chance, of the most that could be (Cohen's kappa): 0 for a single class for all. Neighbours among target
    examples see structure alone, and two classes that are swapped or merged agree as well; labels see names.
    """

    higher_is_better = True
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        what = "labelled source examples near those of the target, which were not looked for"
        votes = None if target.reference is None else target.reference.votes
        needed("nearest_labels", what, votes)
        assert target.reference is not None
        return target.reference.label_agreement(usable(target.probabilities).argmax(axis=1))
