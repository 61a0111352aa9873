"""What is said of the target and of the champion at the end of a search."""

import pytest

from ray_tl.observability.findings import finding_lines


def test_the_expected_accuracy_is_said_in_its_own_words():
    assert finding_lines({"expected": {"accuracy": 0.7, "words": "expected: 70%"}}) == ["expected: 70%"]


def test_where_nothing_is_expected_the_reason_is_said():
    said = finding_lines({"expected": None, "not_expected": "3 trials are too few."})
    assert said == ["no accuracy on the target is expected: 3 trials are too few."]


def test_an_older_study_has_nothing_to_say():
    assert finding_lines({"trial": 3, "reason": "best"}) == []


def test_what_was_not_written_so_is_refused():
    with pytest.raises(KeyError, match="words"):
        finding_lines({"expected": {"accuracy": 0.7}})
