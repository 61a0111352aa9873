"""A small world of Gaussian classes, and all that a network leaves of it."""

import tracemalloc
from contextlib import contextmanager

import numpy as np
from scipy.special import softmax

from ray_tl.neighbours import LabelledSpace, nearest_across, nearest_neighbours
from ray_tl.validation import Features, Mixes, PoolEvidence, SourceEvidence, TargetEvidence

NUM_CLASSES = 3
WIDTH = 4
ROWS = 60
CENTRES = 3.0 * np.eye(NUM_CLASSES, WIDTH)


def examples(random, rows=ROWS, noise=0.5):
    """Features [rows, WIDTH] and true classes."""
    labels = random.permutation(np.arange(rows) % NUM_CLASSES)
    return CENTRES[labels] + random.normal(scale=noise, size=(rows, WIDTH)), labels


def logits_of(features, head):
    raw = features @ head.T
    return (raw - raw.mean(axis=1, keepdims=True)).astype(np.float32)


def whole_evidence(seed=0, head=CENTRES):
    """Everything that a trial with this linear head leaves when it has ended, by argument name."""
    random = np.random.default_rng(seed)
    (holdout, labels), (training, own), (target, _) = (examples(random) for _ in range(3))
    rows, second, outputs = np.arange(ROWS), random.permutation(ROWS), logits_of(target, head)
    mixed = softmax(logits_of(0.55 * target + 0.45 * target[second], head), axis=1)
    probabilities = softmax(outputs, axis=1)
    source = SourceEvidence(
        softmax(logits_of(holdout, head), axis=1), labels, Features(rows, holdout), Features(rows, training), own
    )
    votes = np.eye(NUM_CLASSES)[own[nearest_across(target, training)]].mean(axis=1)
    reference, mixes = LabelledSpace(nearest_neighbours(target, rows), 1.0, votes), Mixes(rows, second, 0.55, mixed)
    found = TargetEvidence(probabilities, reference, outputs, Features(rows, target), mixes, head)
    return {"source": source, "target": found, "pool": PoolEvidence(probabilities)}


def whole_of_one_class():
    """Of a network with a single class."""
    return whole_evidence(head=np.ones((1, WIDTH)))


@contextmanager
def peak_of_memory():
    """Gives a function that says how many bytes were held at most, beyond those held before."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    peak = [0]
    yield lambda: peak[0]
    peak[0] = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
