"""Normal mixtures of which the posterior is known: classifiers that are calibrated without any fit."""

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax as _softmax

SHARES = np.array([0.55, 0.3, 0.1, 0.05])
CENTRES = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])


@dataclass(frozen=True)
class Mixture:
    points: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def softmax(scores):
    return _softmax(scores, axis=-1)


def posterior(points, shares=(0.25, 0.25, 0.25, 0.25)):
    """By Bayes' rule, [N, C]; of a source with these shares."""
    distances = np.square(points[:, None] - CENTRES).sum(axis=2)
    return softmax(np.log(shares) - distances / 2)


def mixture(shares, num, seed):
    """Examples of a domain with these shares; probabilities are those of a balanced source."""
    random = np.random.default_rng(seed)
    labels = random.choice(4, size=num, p=shares)
    points = CENTRES[labels] + random.normal(size=(num, 2))
    return Mixture(points, labels, posterior(points))
