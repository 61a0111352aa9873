import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from ray_tl.adaptation.confidence import batch_nuclear_norm as nuclear_norm_loss
from ray_tl.adaptation.confidence import information_maximisation
from ray_tl.errors import InvalidInput, TrialFailed, Unavailable, UnknownName
from ray_tl.validation import VALIDATORS, PoolEvidence, SourceEvidence, TargetEvidence, score_all
from ray_tl.validation.validators import batch_nuclear_norm, mutual_information
from tests.validation.world import peak_of_memory, whole_evidence, whole_of_one_class

ON_TARGET = ["entropy", "im", "bnm", "corr_c"]
SURE_AND_EVEN = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
COLLAPSED = np.tile(np.eye(3, dtype=np.float32)[0], (12, 1))
UNIFORM = np.full((12, 3), 1 / 3, dtype=np.float32)

evidence = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 5))


def score(name, probabilities):
    return VALIDATORS.create(name, {}).score(target=TargetEvidence(probabilities))


def entropy_of(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def reference(name, probabilities):
    rows, classes = probabilities.shape
    entropy = sum(entropy_of(row) for row in probabilities) / rows
    mean = [sum(row[c] for row in probabilities) / rows for c in range(classes)]
    correlation = [[sum(row[i] * row[j] for row in probabilities) for j in range(classes)] for i in range(classes)]
    norm = math.sqrt(sum(entry**2 for line in correlation for entry in line))
    return {
        "entropy": entropy,
        "im": entropy_of(mean) - entropy,
        "bnm": np.linalg.svd(probabilities, compute_uv=False).sum() / rows,
        "corr_c": sum(correlation[c][c] for c in range(classes)) / (norm * math.sqrt(classes)),
    }[name]


@pytest.mark.parametrize("name", ON_TARGET)
@settings(max_examples=25, deadline=None)
@given(evidence)
def test_scores_are_those_of_the_papers_formulas(name, drawn):
    seed, rows, classes = drawn
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(classes), rows)
    assert score(name, probabilities) == pytest.approx(reference(name, probabilities), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "sure_and_even", "collapsed", "uniform"),
    [
        ("entropy", 0.0, 0.0, math.log(3)),
        ("im", math.log(3), 0.0, 0.0),
        ("bnm", 3 * math.sqrt(4) / 12, math.sqrt(12) / 12, math.sqrt(12 / 3) / 12),
        ("corr_c", 1.0, 1 / math.sqrt(3), 1 / math.sqrt(3)),
    ],
)
def test_extreme_predictions_give_the_values_known_in_closed_form(name, sure_and_even, collapsed, uniform):
    assert score(name, SURE_AND_EVEN) == pytest.approx(sure_and_even, abs=1e-6)
    assert score(name, COLLAPSED) == pytest.approx(collapsed, abs=1e-6)
    assert score(name, UNIFORM) == pytest.approx(uniform, abs=1e-6)


@pytest.mark.parametrize("name", ON_TARGET)
def test_the_good_end_is_the_one_of_sure_and_even_predictions(name):
    sign = 1 if VALIDATORS.create(name, {}).higher_is_better else -1
    assert sign * score(name, SURE_AND_EVEN) > sign * score(name, UNIFORM)


@pytest.mark.parametrize("name", ["im", "bnm", "corr_c"])
def test_all_but_entropy_tell_a_collapsed_model_from_a_good_one(name):
    assert score(name, SURE_AND_EVEN) > score(name, COLLAPSED) + 0.1
    assert score("entropy", SURE_AND_EVEN) == score("entropy", COLLAPSED)


def test_source_accuracy_is_the_share_of_right_predictions():
    source = SourceEvidence(SURE_AND_EVEN, np.array([0] * 4 + [1] * 4 + [1] * 4))
    validator = VALIDATORS.create("source_accuracy", {})
    assert validator.higher_is_better
    assert validator.score(source=source) == pytest.approx(8 / 12)


def test_score_all_gives_a_plain_float_for_every_name():
    scores = score_all(VALIDATORS.names(), **whole_evidence())
    assert list(scores) == VALIDATORS.names()
    assert {type(value) for value in scores.values()} == {float}


def test_score_all_gives_each_validator_its_own_score():
    source = SourceEvidence(SURE_AND_EVEN, np.repeat(np.arange(3), 4))
    scores = score_all(["entropy", "source_accuracy", "ensv"], source, TargetEvidence(UNIFORM), PoolEvidence(UNIFORM))
    assert scores == {"entropy": pytest.approx(math.log(3), abs=1e-6), "source_accuracy": 1, "ensv": 1}


def test_scores_that_the_evidence_does_not_allow_are_left_out_where_that_is_asked_for():
    source = SourceEvidence(SURE_AND_EVEN, np.repeat(np.arange(3), 4))
    found = score_all(VALIDATORS.names(), source, TargetEvidence(UNIFORM), skip_unavailable=True)
    assert sorted(found) == ["atc", "atc_entropy", "bnm", "corr_c", "entropy", "im", "snd", "source_accuracy"]


def test_divergence_is_not_left_out_with_what_is_unavailable():
    source, target = SourceEvidence(UNIFORM, np.zeros(12, np.int64)), TargetEvidence(np.full((12, 3), np.nan))
    with pytest.raises(TrialFailed, match="12 of 12 predictions are not finite"):
        score_all(["mixval", "im"], source, target, skip_unavailable=True)


def test_neighbours_that_nobody_looked_for_are_no_score_of_zero():
    with pytest.raises(
        Unavailable, match="'neighbours' needs a k-nearest-neighbour graph of the target, which was not"
    ):
        score_all(["neighbours"], SourceEvidence(UNIFORM, np.zeros(12)), TargetEvidence(UNIFORM))


def test_neighbours_of_one_class_are_no_score():
    with pytest.raises(Unavailable, match="'neighbours' compares classes, and there is one"):
        score_all(["neighbours"], **whole_of_one_class())


@pytest.mark.parametrize("shape", [(400, 300), (150, 700)])
@pytest.mark.parametrize("rank", [1, 5, 150])
def test_nuclear_norm_of_many_classes_is_the_sum_of_singular_values_whatever_the_rank(shape, rank):
    random = np.random.default_rng(rank)
    low = random.dirichlet(np.ones(rank), shape[0]) @ random.dirichlet(np.full(shape[1], 0.1), rank)
    assert score("bnm", low) == pytest.approx(np.linalg.norm(low, "nuc") / shape[0], rel=5e-6)


def test_nuclear_norm_of_a_thousand_classes_takes_little_more_than_the_predictions_in_float64():
    one_hot = np.zeros((8000, 1000), np.float32)
    one_hot[np.arange(8000), np.arange(8000) % 1000] = 1
    with peak_of_memory() as peak:
        found = score("bnm", one_hot)
    assert found == pytest.approx(1000 * math.sqrt(8) / 8000)
    assert peak() < 1.5 * 8000 * 1000 * 8


def test_score_all_refuses_an_unknown_name_with_the_nearest():
    source = SourceEvidence(SURE_AND_EVEN, np.repeat(np.arange(3), 4))
    with pytest.raises(UnknownName, match="validator 'entrop' is not known; did you mean 'entropy'"):
        score_all(["entrop"], source, TargetEvidence(UNIFORM))


@pytest.mark.parametrize("name", ON_TARGET)
def test_predictions_that_are_not_finite_fail_the_trial_instead_of_scoring_nan(name):
    with pytest.raises(TrialFailed, match="1 of 2 predictions are not finite"):
        score(name, np.array([[np.inf, 0.0], [0.5, 0.5]], dtype=np.float32))


@pytest.mark.parametrize("name", ON_TARGET)
def test_no_predictions_are_refused(name):
    with pytest.raises(InvalidInput, match="hold no prediction to judge"):
        score(name, np.zeros((0, 3), dtype=np.float32))


def test_validation_is_imported_without_torch_and_without_scikit_learn():
    program = "import sys, ray_tl.validation; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


UNEVEN = np.array([0.5, 0.3, 0.2])


def test_information_against_shares_is_the_negative_training_loss():
    logits = np.random.default_rng(0).normal(size=(40, 3), scale=2)
    loss = information_maximisation(torch.from_numpy(logits), prior=torch.from_numpy(UNEVEN))
    assert mutual_information(softmax(logits, axis=1), UNEVEN) == pytest.approx(-float(loss))


def test_nuclear_norm_against_shares_is_the_negative_training_loss():
    logits = np.random.default_rng(0).normal(size=(40, 3), scale=2)
    loss = nuclear_norm_loss(torch.from_numpy(logits), prior=torch.from_numpy(UNEVEN))
    assert batch_nuclear_norm(softmax(logits, axis=1), UNEVEN) == pytest.approx(-float(loss))


@pytest.mark.parametrize("score", [mutual_information, batch_nuclear_norm])
def test_sure_predictions_with_the_shares_are_better_than_even_ones(score):
    with_shares, even = (np.eye(3)[np.repeat(np.arange(3), counts)] for counts in ([15, 9, 6], [10, 10, 10]))
    assert score(with_shares, UNEVEN) > score(even, UNEVEN)
    assert score(even) > score(with_shares)
