"""Do predictions on the target follow where its examples lie close together?"""

import numpy as np
from numpy.typing import NDArray

from ray_tl.errors import Unavailable
from ray_tl.validation.checks import OF_THE_TARGET, at_rows, needed, some_positions, usable, usable_features
from ray_tl.validation.evidence import TargetEvidence
from ray_tl.validation.validators import VALIDATORS

CLUSTERED_ROWS = 5000
CLUSTERED_WIDTH = 128  # principal components: k-means over 1,000 classes takes 1.3 GFLOP a round
MOST_STARTS = 10  # of k-means, for up to 100 clusters; fewer for more, so that their product is no more than 1,000
NEIGHBOURHOOD_ROWS = 5000
CHUNK = 500  # rows whose similarities to all others are held at once: 20 MB for `NEIGHBOURHOOD_ROWS`
TEMPERATURE = 0.05


def cluster_agreement(classes: NDArray[np.int64], features: NDArray[np.float64], num_classes: int) -> float:
    """Adjusted mutual information of predicted classes and k-means clusters, at most 1, 0 by chance.

    ClassAMI of Musgrave et al., "Three New Validators and a Large-Scale Benchmark Ranking for Unsupervised Domain
    Adaptation", 2022, https://arxiv.org/abs/2208.07360: as many clusters as there are classes, or distinct rows where
    those are fewer. Features wider than `CLUSTERED_WIDTH` are reduced to so many principal components first, for cost.

    Args:
        classes: Predicted, [R].
        features: [R, D].
        num_classes: C, of the network, predicted or not.

    Raises:
        Unavailable: If there is one class, or all features are alike.
    """
    from sklearn.cluster import KMeans  # here, because every training worker would wait two seconds
    from sklearn.metrics import adjusted_mutual_info_score

    num_clusters = min(num_classes, len(np.unique(features, axis=0)))
    if num_clusters < 2:
        what = "there is one" if num_classes < 2 else "all features of the target are alike"
        raise Unavailable(f"validator 'class_ami' compares classes with clusters, and {what}; leave it out.")
    num_starts = max(1, min(MOST_STARTS, 100 * MOST_STARTS // num_clusters))
    clusters = KMeans(num_clusters, n_init=num_starts, max_iter=100, random_state=0).fit_predict(_narrowed(features))
    return float(adjusted_mutual_info_score(classes, clusters))


def soft_neighbourhood_density(probabilities: NDArray[np.floating]) -> float:
    """Mean entropy of the similarities of each row to all others, in nats, in [0, log(N - 1)].

    Saito et al., "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood Density",
    2021, https://arxiv.org/abs/2108.10860, eqs. 1 to 3: cosines of softmax outputs, made a distribution by a softmax at
    temperature 0.05. The similarity of a row to itself is left out; their code sets it to -1, which counts for less
    than 1e-8. It is highest when all rows are alike, as in a collapsed network, and grows with log N: compare
    only scores of equally many rows.

    Args:
        probabilities: Softmax, [N, C].

    Raises:
        Unavailable: If there is one row.
    """
    wide = usable(probabilities)
    if len(wide) < 2:
        raise Unavailable("validator 'snd' compares target examples with one another, and there is one; leave it out.")
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    chunks = (_similarity_entropies(unit, start) for start in range(0, len(unit), CHUNK))
    return float(np.concatenate(list(chunks)).mean())


def _similarity_entropies(unit: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    similarity = unit[start : start + CHUNK] @ unit.T / TEMPERATURE
    own = np.arange(len(similarity))
    similarity[own, start + own] = -1e4  # so that it weighs exactly nothing, and 0 times it is no NaN
    similarity -= similarity.max(axis=1, keepdims=True)
    weights = np.exp(similarity)
    total = weights.sum(axis=1)
    entropies: NDArray[np.float64] = np.log(total) - np.einsum("ij,ij->i", weights, similarity) / total
    return entropies


def _narrowed(features: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.decomposition import PCA

    if features.shape[1] <= CLUSTERED_WIDTH or len(features) <= CLUSTERED_WIDTH:
        return features
    narrow: NDArray[np.float64] = PCA(CLUSTERED_WIDTH, random_state=0).fit_transform(features)
    return narrow


@VALIDATORS.register("class_ami")
class ClassAmi:
    """Mutual information of predicted classes and clusters of target features, adjusted for chance; of 5,000 rows."""

    higher_is_better = True
    needs_end = True

    def score(self, target: TargetEvidence) -> float:
        rows, features = usable_features(needed("class_ami", OF_THE_TARGET, target.features), CLUSTERED_ROWS)
        probabilities = usable(at_rows(target.probabilities, rows))
        return cluster_agreement(probabilities.argmax(axis=1), features, probabilities.shape[1])


@VALIDATORS.register("snd")
class SoftNeighbourhoodDensity:
    """Entropy of the similarities between target predictions; high in dense clusters, and in one for all; of 5,000."""

    higher_is_better = True
    needs_end = False

    def score(self, target: TargetEvidence) -> float:
        kept = some_positions(len(target.probabilities), NEIGHBOURHOOD_ROWS)
        return soft_neighbourhood_density(target.probabilities[kept])
