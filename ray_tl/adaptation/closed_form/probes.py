"""Classifiers of the source features alone: what frozen features are worth before any adaptation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ray_tl.adaptation.closed_form.heads import ForestHead, NearestNeighboursHead
from ray_tl.adaptation.closed_form.linear import C_RANGE, logistic_regression, standard_score
from ray_tl.adaptation.closed_form.method import CLOSED_FORM, Array, ClosedForm, Domains, State
from ray_tl.adaptation.numerics import require_positive
from ray_tl.errors import InvalidInput
from ray_tl.registry import Published

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier


@CLOSED_FORM.register(
    "logistic",
    ranges={"C": C_RANGE},
    published=Published(
        "Radford et al., 2021, https://arxiv.org/abs/2103.00020, the linear probe of the authors' code; its features "
        "are not standardised",
        params={"C": 0.316},
    ),
    family="source",
)
@dataclass(frozen=True, kw_only=True)
class Logistic(ClosedForm):
    """Logistic regression of standardised features: the linear probe.

    Solved, not trained: see `ClosedForm`.

    Attributes:
        C: Inverse strength of the penalty, as in scikit-learn, above 0.
    """

    C: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("logistic.C", self.C, usual=1.0)

    def solve(self, domains: Domains, seed: int) -> State:
        score = standard_score(domains.source)
        return score.fold(*logistic_regression(score.apply(domains.source), domains.labels, self.C))


@CLOSED_FORM.register(
    "nearest_mean",
    ranges={"temperature": {"log_uniform": [1.0, 1000.0]}},
    published=Published(
        "Tibshirani et al., 2002, https://doi.org/10.1073/pnas.082099299, eq. 8: Gaussian classes of equal size",
        params={"temperature": 2.0},
    ),
    family="source",
)
@dataclass(frozen=True, kw_only=True)
class NearestMean(ClosedForm):
    """Nearest class mean: softmax of the negative squared distance of standardised features to each class mean.

    -||x - m||^2 / T = (2 m.x - ||m||^2) / T - ||x||^2 / T, of which the last term is the same for all classes and is
    left out: the head is linear.

    Solved, not trained: see `ClosedForm`.

    Attributes:
        temperature: T above 0. At 2 the probabilities are those of Gaussian classes of deviation 1, equally frequent;
            wide features need more, since squared distances add up over features.
    """

    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("nearest_mean.temperature", self.temperature, usual=2.0)

    def solve(self, domains: Domains, seed: int) -> State:
        score = standard_score(domains.source)
        means = _class_means(score.apply(domains.source), domains.labels)
        return score.fold(2 * means / self.temperature, -np.square(means).sum(axis=1) / self.temperature)


@CLOSED_FORM.register(
    "knn",
    ranges={"k": {"int": [1, 50]}, "metric": {"choice": ["euclidean", "cosine"]}},
    published=Published(
        "Caron et al., 2021, https://arxiv.org/abs/2104.14294; its votes are weighted",
        params={"k": 20, "metric": "cosine"},
    ),
    family="source",
)
@dataclass(frozen=True, kw_only=True)
class NearestNeighbours(ClosedForm):
    """k nearest neighbours among the standardised source features, which the head keeps.

    Solved, not trained: see `ClosedForm`.

    Attributes:
        k: Number of neighbours, in 1..N.
        metric: By which they are near: Euclidean distance, or the angle seen from the mean of the source.
    """

    k: int = 5
    metric: Literal["euclidean", "cosine"] = "euclidean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("knn.k", self.k, usual=5)

    def require_rows(self, num_source: int, num_target: int) -> None:
        if self.k > num_source:
            raise InvalidInput(f"knn.k={self.k} is more than the {num_source} source rows; choose 1..{num_source}.")

    def solve(self, domains: Domains, seed: int) -> State:
        score = standard_score(domains.source)
        rows = score.apply(domains.source)
        return {"rows": rows, "labels": domains.labels, "mean": score.mean, "scale": score.scale}

    def blank_head(self, state: Mapping[str, Tensor]) -> NearestNeighboursHead:
        num_rows, width, cosine = len(state["rows"]), self.context.feature_dim, self.metric == "cosine"
        return NearestNeighboursHead(num_rows, width, self.context.num_classes, k=self.k, cosine=cosine)


@CLOSED_FORM.register(
    "random_forest",
    ranges={"num_trees": {"int": [50, 300]}, "min_leaf_rows": {"int": [1, 20]}},
    published=Published(
        "Breiman, 2001, https://doi.org/10.1023/A:1010933404324: 100 trees, grown to the end",
        params={"num_trees": 100, "min_leaf_rows": 1},
    ),
    family="source",
)
@dataclass(frozen=True, kw_only=True)
class RandomForest(ClosedForm):
    """Random forest of raw features, grown by scikit-learn and evaluated from tensors.

    Breiman, "Random Forests", 2001, https://doi.org/10.1023/A:1010933404324. Departure, as in scikit-learn: trees
    average their class shares instead of voting.

    Solved, not trained: see `ClosedForm`.

    Attributes:
        num_trees: At least 1.
        min_leaf_rows: Fewest source rows in a leaf, at least 1; more of them make a smaller head.
    """

    num_trees: int = 100
    min_leaf_rows: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("random_forest.num_trees", self.num_trees, usual=100)
        require_positive("random_forest.min_leaf_rows", self.min_leaf_rows, usual=1)

    def solve(self, domains: Domains, seed: int) -> State:
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            self.num_trees, min_samples_leaf=self.min_leaf_rows, random_state=seed % 2**32
        ).fit(domains.source, domains.labels)
        return forest_state(forest)

    def blank_head(self, state: Mapping[str, Tensor]) -> ForestHead:
        return ForestHead(len(state["roots"]), len(state["feature"]), self.context.num_classes)


def forest_state(forest: "RandomForestClassifier") -> State:
    """State of the `ForestHead` that gives the logarithm of the forest's `predict_proba`."""
    sizes = [tree.tree_.node_count for tree in forest.estimators_]
    roots = np.cumsum([0, *sizes[:-1]])
    return {
        "roots": roots,
        "branches": np.hstack([_branches(tree) + root for tree, root in zip(forest.estimators_, roots, strict=True)]),
        "feature": np.hstack([tree.tree_.feature.clip(0) for tree in forest.estimators_]),  # of a leaf: any will do
        "threshold": round_down(np.hstack([tree.tree_.threshold for tree in forest.estimators_])),
        "share": np.vstack([tree.tree_.value[:, 0] for tree in forest.estimators_]),
        "depth": np.array(max(tree.get_depth() for tree in forest.estimators_)),
    }


def round_down(thresholds: Array) -> NDArray[np.float32]:
    """The largest float32 that is not above each threshold.

    x <= threshold then holds for the same float32 x; rounding to the nearest could pass an x on the far side.
    """
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _class_means(rows: Array, labels: NDArray[np.int64]) -> Array:
    return np.stack([rows[labels == label].mean(axis=0) for label in range(labels.max() + 1)])


def _branches(tree: "DecisionTreeClassifier") -> NDArray[np.int64]:
    """Left and right child of each node, [2, nodes]; of a leaf, itself."""
    children = np.stack([tree.tree_.children_left, tree.tree_.children_right])
    return np.where(children < 0, np.arange(tree.tree_.node_count), children)
