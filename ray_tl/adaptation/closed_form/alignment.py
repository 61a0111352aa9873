"""A linear map that aligns the source with the target, then logistic regression of the aligned source features.

All three start from standard scores by each domain's own mean and deviation, which their papers presume, and end as
one linear layer of raw target features: the head is for the target, and the source would need its own scores. A shift
or change of scale of a target feature therefore does not change a prediction, at the price that a difference in class
frequencies between the domains is taken for a shift.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ray_tl.adaptation.closed_form.linear import C_RANGE, logistic_regression, standard_score
from ray_tl.adaptation.closed_form.method import CLOSED_FORM, Array, ClosedForm, Domains, State
from ray_tl.adaptation.method import MethodContext
from ray_tl.adaptation.numerics import require_positive
from ray_tl.errors import InvalidInput
from ray_tl.registry import Published

Align = Callable[[Array, Array], tuple[Array, Array]]
CLEAR = 1e-6  # share of the largest deviation, far above the rounding of float64 and of its square
COMPONENTS_RANGE = {"int": [8, 64]}


def coral_map(source: Array, target: Array, *, regularisation: float = 1.0) -> Array:
    """The matrix A [D, D] that whitens the source and gives it the covariance of the target: C_s^-1/2 C_t^1/2.

    Sun et al., "Return of Frustratingly Easy Domain Adaptation", 2016, https://arxiv.org/abs/1511.05547, algorithm 1,
    with C = cov + regularisation * I; the paper's regularisation is 1. Covariances are over N - 1.

    Args:
        source: [N, D], N >= 2, of mean 0.
        target: [M, D], M >= 2, of mean 0.
        regularisation: Above 0, in units of squared features.

    Returns:
        A, to be applied as source @ A.
    """
    whiten = _symmetric_power(_covariance(source), -0.5, regularisation)
    return whiten @ _symmetric_power(_covariance(target), 0.5, regularisation)


def subspace_maps(source: Array, target: Array, *, num_components: int) -> tuple[Array, Array]:
    """Maps of the source and of the target to one space, [D, d] each: X_s X_s^T X_t and X_t.

    Fernando et al., "Unsupervised Visual Domain Adaptation Using Subspace Alignment", 2013,
    https://openaccess.thecvf.com/content_iccv_2013/html/Fernando_Unsupervised_Visual_Domain_2013_ICCV_paper.html,
    algorithm 1, with X the first d principal axes of a domain.

    Args:
        source: [N, D], of mean 0.
        target: [M, D], of mean 0.
        num_components: d, at most the rank of either domain.

    Raises:
        InvalidInput: If d is more than a rank.
    """
    source_axes = principal_axes(source, num_components, "source")
    target_axes = principal_axes(target, num_components, "target")
    return source_axes @ source_axes.T @ target_axes, target_axes


def principal_axes(rows: Array, num_components: int, domain: str) -> Array:
    """The first principal axes of rows [N, D] of mean 0, orthonormal columns [D, d]; the sign of an axis is arbitrary.

    Raises:
        InvalidInput: If d = num_components is more than the rank; the message names `domain`.
    """
    clear = _clear_axes(rows, num_components)
    if clear is not None:
        return clear
    _, deviations, axes = np.linalg.svd(rows, full_matrices=False)
    rank = int((deviations > deviations[0] * max(rows.shape) * np.finfo(rows.dtype).eps).sum())
    if num_components > rank:
        raise InvalidInput(
            f"num_components={num_components} is more than the rank {rank} of the {domain} features; choose at most "
            f"{rank}, or give more rows that differ."
        )
    return axes[:num_components].T


def aligned_state(domains: Domains, align: Align, inverse_penalty: float) -> State:
    """State of the linear head of raw target features: standard scores, alignment and classifier in one layer.

    Args:
        domains: Source and target.
        align: From both domains' standard scores to a map of each, [D, d].
        inverse_penalty: Of the logistic regression of the mapped source.
    """
    source_score, target_score = standard_score(domains.source), standard_score(domains.target)
    source = source_score.apply(domains.source)
    source_map, target_map = align(source, target_score.apply(domains.target))
    weight, bias = logistic_regression(source @ source_map, domains.labels, inverse_penalty)
    return target_score.fold(weight @ target_map.T, bias)


@CLOSED_FORM.register(
    "coral_closed",
    ranges={"regularisation": {"log_uniform": [1e-3, 10.0]}, "C": C_RANGE},
    published=Published(
        "Sun et al., 2016, https://arxiv.org/abs/1511.05547, algorithm 1: covariances plus 1",
        params={"regularisation": 1.0, "C": 1.0},
    ),
    family="alignment",
)
@dataclass(frozen=True, kw_only=True)
class CoralClosed(ClosedForm):
    """CORAL: the source is whitened and recoloured with the target's covariance, then classified.

    Solved, not trained: see `ClosedForm`.

    Attributes:
        regularisation: Added to the variances of both domains, which are 1 before; above 0. The paper has 1.
        C: Inverse strength of the classifier's penalty, as in scikit-learn, above 0.
    """

    needs_domains = ("source", "target")
    takes_target_labels = False

    regularisation: float = 1.0
    C: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("coral_closed.regularisation", self.regularisation, usual=1.0)
        require_positive("coral_closed.C", self.C, usual=1.0)

    def require_rows(self, num_source: int, num_target: int) -> None:
        if num_target < 2:
            raise InvalidInput("coral_closed: a target of 1 row has no covariance; give 2 or more.")

    def solve(self, domains: Domains, seed: int) -> State:
        return aligned_state(domains, self._maps, self.C)

    def _maps(self, source: Array, target: Array) -> tuple[Array, Array]:
        return coral_map(source, target, regularisation=self.regularisation), np.eye(target.shape[1])


@dataclass(frozen=True, kw_only=True)
class AxesAlignment(ClosedForm):
    """Both domains are mapped to a few axes, where a classifier learns the source.

    Attributes:
        num_components: Principal axes, in 1..D.
        C: Inverse strength of the classifier's penalty, as in scikit-learn, above 0.
    """

    name: ClassVar[str]
    needs_domains = ("source", "target")
    takes_target_labels = False

    num_components: int = 16
    C: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_components(self.name, self.num_components, self.context)
        require_positive(f"{self.name}.C", self.C, usual=1.0)

    def require_rows(self, num_source: int, num_target: int) -> None:
        _require_rank(self.name, self.num_components, self.most_axes(num_source, num_target))

    def solve(self, domains: Domains, seed: int) -> State:
        return aligned_state(domains, self.maps, self.C)

    @abstractmethod
    def most_axes(self, num_source: int, num_target: int) -> int:
        """As many as centred domains of so many rows can have."""

    @abstractmethod
    def maps(self, source: Array, target: Array) -> tuple[Array, Array]:
        """From each domain's standard scores to the common space, [D, d]."""


@CLOSED_FORM.register(
    "subspace_alignment",
    ranges={"num_components": COMPONENTS_RANGE, "C": C_RANGE},
    published=Published(
        "Fernando et al., 2013, https://doi.org/10.1109/ICCV.2013.368, choose the number of axes for each task: "
        "these are defaults"
    ),
    family="alignment",
)
@dataclass(frozen=True, kw_only=True)
class SubspaceAlignment(AxesAlignment):
    """Subspace alignment: the source's principal axes are turned towards the target's, then classified.

    Departure from the paper: logistic regression in place of nearest neighbours and support vectors.

    Solved, not trained: see `ClosedForm`; for the parameters see `AxesAlignment`.
    """

    name = "subspace_alignment"

    def most_axes(self, num_source: int, num_target: int) -> int:
        return min(num_source, num_target) - 1

    def maps(self, source: Array, target: Array) -> tuple[Array, Array]:
        return subspace_maps(source, target, num_components=self.num_components)


@CLOSED_FORM.register(
    "pca_alignment",
    ranges={"num_components": COMPONENTS_RANGE, "C": C_RANGE},
    published=Published(
        "Pan et al., 2011, https://doi.org/10.1109/TNN.2010.2091281, vary the number of axes: these are defaults"
    ),
    family="alignment",
)
@dataclass(frozen=True, kw_only=True)
class PcaAlignment(AxesAlignment):
    """Common principal axes of both domains, then a classifier.

    The baseline of Pan et al., "Domain Adaptation via Transfer Component Analysis", 2011,
    https://doi.org/10.1109/TNN.2010.2091281. Departure: each domain is centred and scaled by its own statistics, so
    that no axis is spent on the shift between the two. Every row counts alike, so the larger domain counts more.

    Solved, not trained: see `ClosedForm`; for the parameters see `AxesAlignment`.
    """

    name = "pca_alignment"

    def most_axes(self, num_source: int, num_target: int) -> int:
        return num_source + num_target - 2

    def maps(self, source: Array, target: Array) -> tuple[Array, Array]:
        axes = principal_axes(np.vstack([source, target]), self.num_components, "joined")
        return axes, axes


def _clear_axes(rows: Array, num_components: int) -> Array | None:
    """The first axes alone, in a fraction of the time; `None` if that can't tell them from axes that do not vary."""
    from scipy.sparse.linalg import ArpackError, svds

    if num_components >= min(rows.shape):
        return None
    start = np.random.default_rng(0).standard_normal(min(rows.shape))
    try:
        _, deviations, axes = svds(rows, num_components, v0=start)
    except ArpackError:
        return None
    order = np.argsort(-deviations)
    clear: Array = axes[order].T
    return clear if deviations.min() > CLEAR * deviations.max() else None


def _covariance(rows: Array) -> Array:
    return np.atleast_2d(np.cov(rows, rowvar=False))


def _symmetric_power(covariance: Array, exponent: float, regularisation: float) -> Array:
    variances, axes = np.linalg.eigh(covariance)
    # A variance of 0 may come out slightly below it.
    return axes * (variances.clip(0) + regularisation) ** exponent @ axes.T


def _require_components(method: str, num_components: int, context: MethodContext) -> None:
    width = context.feature_dim
    if not 1 <= num_components <= width:
        raise InvalidInput(
            f"{method}.num_components={num_components} must lie in 1..{width}, the width of the features."
        )


def _require_rank(method: str, num_components: int, rank: int) -> None:
    if num_components > rank:
        raise InvalidInput(
            f"{method}.num_components={num_components} is more than the {rank} axes that so few rows can have; choose "
            f"at most {rank}, or give more images."
        )
