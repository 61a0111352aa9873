"""Do the labels that a network gives the target lead back to those of the source?"""

import warnings

import numpy as np
from numpy.typing import NDArray

from ray_tl.validation.checks import OF_THE_HOLDOUT, OF_THE_TARGET, at_rows, needed, usable, usable_features
from ray_tl.validation.evidence import SourceEvidence, TargetEvidence
from ray_tl.validation.metrics import accuracy
from ray_tl.validation.validators import VALIDATORS

FITTED_ROWS = 5000
FITTED_WIDTH = 128  # principal components: a round of 1,000 classes takes 4 GFLOP
ROUNDS = 200

Array = NDArray[np.float64]


def reverse_probabilities(target: Array, classes: NDArray[np.int64], source: Array, num_classes: int) -> Array:
    """Softmax on the source of a logistic regression that was fitted to the target as a network labels it, [N, C].

    A class that the network predicts nowhere gets 0; if it predicts a single one, that gets 1. Features wider than
    `FITTED_WIDTH` are reduced to so many principal components of the target, for cost.

    Args:
        target: Features, [M, D].
        classes: That the network predicts for them, [M].
        source: Features, [N, D].
        num_classes: C.
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = np.zeros((len(source), num_classes))
    predicted = np.unique(classes)
    if len(predicted) == 1:
        found[:, predicted] = 1
        return found
    is_wide = min(target.shape) > FITTED_WIDTH
    narrow = PCA(FITTED_WIDTH, random_state=0) if is_wide else "passthrough"
    model = make_pipeline(StandardScaler(), narrow, LogisticRegression(max_iter=ROUNDS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged will do: its classes are asked for
        found[:, predicted] = model.fit(target, classes).predict_proba(source)
    return found


@VALIDATORS.register("reverse_validation")
class ReverseValidation:
    """Accuracy on held-out source examples of a classifier fitted to the target as the network labels it.

    Zhong et al., "Cross Validation Framework to Choose amongst Models and Datasets for Transfer Learning", 2010,
    https://doi.org/10.1007/978-3-642-15939-8_35, and Ganin et al., "Domain-Adversarial Training of Neural Networks",
    2016, https://arxiv.org/abs/1505.07818, section 5.1.2. A departure: theirs trains the whole method once more from
    target to source; this fits logistic regression to the features that the trial has learned.
    """

    higher_is_better = True
    needs_end = True

    def score(self, source: SourceEvidence, target: TargetEvidence) -> float:
        held_out, holdout = usable_features(needed("reverse_validation", OF_THE_HOLDOUT, source.features), FITTED_ROWS)
        rows, features = usable_features(needed("reverse_validation", OF_THE_TARGET, target.features), FITTED_ROWS)
        probabilities = usable(at_rows(target.probabilities, rows))
        classes, num_classes = probabilities.argmax(axis=1), probabilities.shape[1]
        found = reverse_probabilities(features, classes, holdout, num_classes)
        return accuracy(found, at_rows(source.labels, held_out))
