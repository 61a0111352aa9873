from dataclasses import replace

import numpy as np
import pytest

from ray_tl.errors import InvalidInput, Unavailable
from ray_tl.validation import Mixes, SourceEvidence, TargetEvidence, score_all
from ray_tl.validation.mixing import mix_consistency

FIRST, SECOND, MIXED = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2]), np.array([0, 0, 2, 1, 2])


def mixval(probabilities, mixes):
    source, target = SourceEvidence(np.eye(3), np.arange(3)), TargetEvidence(probabilities, mixes=mixes)
    return score_all(["mixval"], source, target)["mixval"]


def test_consistency_is_the_mean_of_the_shares_within_and_between_classes():
    # Within a class two of three mixtures keep it, between classes both do.
    assert mix_consistency(FIRST, SECOND, MIXED) == pytest.approx((2 / 3 + 1) / 2)


def test_few_mixtures_of_one_kind_count_as_much_as_many_of_the_other():
    first, second = np.zeros(101, np.int64), np.array([0] * 100 + [1])
    assert mix_consistency(first, second, np.array([0] * 100 + [1])) == 0.5


@pytest.mark.parametrize(("second", "kind"), [(FIRST, "of two classes"), ((FIRST + 1) % 3, "within a class")])
def test_mixtures_of_one_kind_alone_are_no_score(second, kind):
    with pytest.raises(Unavailable, match=f"'mixval' needs mixtures {kind}"):
        mix_consistency(FIRST, second, MIXED)


def test_parts_are_rows_of_the_target_and_count_as_they_are_predicted():
    # Rows 3, 0, 1 are predicted as classes 0, 2, 1.
    probabilities = np.eye(3)[[2, 1, 1, 0]]
    mixes = Mixes(np.array([3, 0, 1]), np.array([0, 1, 2]), 0.55, np.eye(3, dtype=np.float32)[[0, 1, 1]])
    assert mixval(probabilities, mixes) == pytest.approx((1 + 1 / 2) / 2)


def test_mixtures_that_do_not_match_their_parts_are_refused():
    mixes = Mixes(FIRST, SECOND, 0.55, np.eye(3, dtype=np.float32)[MIXED])
    with pytest.raises(InvalidInput, match="4 mixtures do not match 5 first and 5 second parts"):
        mixval(np.eye(3), replace(mixes, probabilities=mixes.probabilities[:4]))
    with pytest.raises(InvalidInput, match=r"rows range over 0\.\.9; give rows of the domain, 0\.\.2"):
        mixval(np.eye(3), replace(mixes, second=np.array([0, 1, 1, 0, 9])))
