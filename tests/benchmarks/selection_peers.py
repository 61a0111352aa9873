"""The scorers of `skada` without target labels, fed with the evidence that the candidates of a pool left.

What is passed as a fitted estimator only looks rows up: their features are the key, the recorded softmax the
prediction. The scorers get the rows whose features were recorded, at most a thousand of each domain. skada's defaults
stand; what it draws at random, it draws from seed 0, and MixVal gets the pairs whose mixtures the network was shown.
CircularValidation is left out: it trains each candidate once more, on what that predicts for the target. In version
0.6.0 DeepEmbeddedValidation multiplies weights [N, 1] by losses [N] into [N, N], so that its weights hardly tell.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from skada.metrics import (
    DeepEmbeddedValidation,
    ImportanceWeightedScorer,
    MaNoScorer,
    MixValScorer,
    PredictionEntropyScorer,
    SoftNeighborhoodDensity,
)
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import Pipeline, make_pipeline

from ray_tl.validation.evidence import FinalEvidence, Mixes

SEED, SOURCE, TARGET, MASKED = 0, 1, -2, -1  # the last three as skada marks domains, and labels that it must not see
Rows = NDArray[np.floating]


class LookUp(ClassifierMixin, BaseEstimator):
    """A classifier that knows the predictions for some rows.

    Args:
        rows: [R, D].
        probabilities: Softmax of each, [R, C].
    """

    def __init__(self, rows: Rows, probabilities: Rows) -> None:
        self.rows, self.probabilities = rows, probabilities
        self.classes_ = np.arange(probabilities.shape[1])
        self._places = {row.tobytes(): place for place, row in enumerate(rows)}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Rows, y: Rows) -> "LookUp":  # noqa: N803
        """Nothing is trained; an estimator must have it."""
        return self

    def predict_proba(self, X: Rows, sample_domain: object = None, allow_source: bool = True) -> Rows:  # noqa: N803
        return self.probabilities[[self._places[row.tobytes()] for row in X]]

    def predict(self, X: Rows, sample_domain: object = None, allow_source: bool = True) -> Rows:  # noqa: N803
        return self.predict_proba(X).argmax(axis=1)

    def score(
        self,
        X: Rows,  # noqa: N803
        y: Rows,
        sample_weight: Rows | None = None,
        sample_domain: object = None,
        allow_source: bool = True,
    ) -> float:
        return float(np.average(self.predict(X) == y, weights=sample_weight))


class _Pairs(np.random.RandomState):
    """Draws the one permutation that is given."""

    def __init__(self, order: NDArray[np.int64]) -> None:
        super().__init__(SEED)
        self._order = order

    def permutation(self, num: int) -> NDArray[np.int64]:
        assert num == len(self._order)
        return self._order


def skada_scores(holdout: Rows, target: Rows, final: FinalEvidence) -> dict[str, float]:
    """By name of the scorer; the higher, the better. NaN where it gives none.

    Args:
        holdout: Softmax on held-out source examples, [N, C].
        target: Softmax, [M, C].
        final: Of the same candidate.
    """
    scorers = {
        "ImportanceWeightedScorer": ImportanceWeightedScorer(),
        "PredictionEntropyScorer": PredictionEntropyScorer(),
        "SoftNeighborhoodDensity": SoftNeighborhoodDensity(),
        "DeepEmbeddedValidation": DeepEmbeddedValidation(random_state=SEED),
        "MaNoScorer": MaNoScorer(),
    }
    source, others = final.features["source_holdout"], final.features["target"]
    rows = np.concatenate([source.values, others.values]).astype(np.float64)
    probabilities = np.concatenate([holdout[source.rows], target[others.rows]]).astype(np.float64)
    labels = np.concatenate([final.holdout_labels[source.rows], np.full(len(others.rows), MASKED)])
    domains = np.repeat([SOURCE, TARGET], [len(source.rows), len(others.rows)])
    estimator = _estimator(rows, probabilities)
    found = {
        name: _scored(lambda each=each: each(estimator, rows, labels, sample_domain=domains))
        for name, each in scorers.items()
    }
    found["MixValScorer"] = np.nan if final.mixes is None else _mixval(target, final.mixes)
    return found


def _mixval(target: Rows, mixes: Mixes) -> float:
    """Of examples whose key is a number in two columns, so that no two mixtures have the same."""
    places = {row: place for place, row in enumerate(mixes.first.tolist())}
    order = np.array([places[row] for row in mixes.second.tolist()])
    keys = np.stack([np.arange(1.0, len(order) + 1), np.arange(1.0, len(order) + 1) ** 2], axis=1)
    scorer = MixValScorer(alpha=mixes.ratio, random_state=_Pairs(order))
    mixed = scorer.alpha * keys + (1 - scorer.alpha) * keys[order]
    known = np.concatenate([keys, mixed])
    probabilities = np.concatenate([target[mixes.first], mixes.probabilities]).astype(np.float64)
    estimator, domains = _estimator(known, probabilities), np.full(len(keys), TARGET)
    labels = np.arange(len(keys)) % target.shape[1]  # it asks only whether labels are classes
    return _scored(lambda: scorer(estimator, keys, labels, sample_domain=domains))


def _estimator(rows: Rows, probabilities: Rows) -> Pipeline:
    """As a pipeline, which is what skada takes features and probabilities from."""
    estimator, known = LookUp(rows, probabilities), {"sample_domain": True, "allow_source": True}
    estimator.set_predict_request(**known).set_predict_proba_request(**known)
    return make_pipeline(estimator.set_score_request(sample_weight=True, **known))


def _scored(score: Callable[[], float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(score())


def pick(scores: Sequence[dict[str, float]], name: str) -> int:
    """The candidate of the highest score; of equal ones the first, and source-only where none has any."""
    values = np.array([each[name] for each in scores])
    return 0 if np.isnan(values).all() else int(np.nanargmax(values))
