import numpy as np

from ray_tl.promotion.gate import Verdict, check_reproduces

RECORDED = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32)


def test_equal_probabilities_are_accepted():
    decision = check_reproduces(RECORDED, RECORDED)
    assert decision.accepted
    assert decision.reasons == ("largest difference 0 <= 0.001.",)


def test_a_difference_within_the_tolerance_is_accepted():
    assert check_reproduces(RECORDED + 0.01, RECORDED, tolerance=0.02).verdict is Verdict.ACCEPT


def test_a_larger_difference_is_refused_with_the_row_and_the_classes_that_change():
    decision = check_reproduces(np.array([[0.9, 0.1], [0.6, 0.4]]), RECORDED)
    assert decision.verdict is Verdict.REFUSE
    assert "up to 0.2 > 0.001 (row 1); 1 of 2 predictions change class" in decision.reasons[0]


def test_another_number_of_images_is_refused():
    assert (
        "gives probabilities [1, 2], the trial recorded [2, 2]" in check_reproduces(RECORDED[:1], RECORDED).reasons[0]
    )


def test_nothing_to_compare_is_refused():
    assert not check_reproduces(RECORDED[:0], RECORDED[:0]).accepted


def test_probabilities_that_are_not_numbers_are_refused():
    assert "not finite" in check_reproduces(RECORDED * np.nan, RECORDED).reasons[0]
    assert not check_reproduces(RECORDED, RECORDED * np.nan).accepted


def test_a_head_of_steps_may_have_one_stray_row_in_a_hundred():
    recorded = np.tile(RECORDED, (100, 1))
    moved = recorded.copy()
    moved[[3, 7]] = 0.5
    decision = check_reproduces(moved, recorded, strays=0.01)
    assert decision.accepted
    assert decision.reasons == ("2 rows differ by more than 0.001, 1% of 200 may.",)
    moved[9] = 0.5
    assert not check_reproduces(moved, recorded, strays=0.01).accepted
    assert not check_reproduces(moved, recorded).accepted


def test_recorded_probabilities_that_are_not_numbers_are_refused():
    assert not check_reproduces(RECORDED, np.full_like(RECORDED, np.nan)).accepted
