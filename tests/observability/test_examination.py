"""What one trial did to the domains, and which classes it recognises."""

from ray_tl.observability.examination import examined
from tests.examples import epoch, trial

HEALTH = {
    "domain_accuracy": 0.64,
    "domain_accuracy_before": 0.83,
    "mmd": 0.031,
    "mmd_before": 0.22,
    "gradient_task": 1.0,
}


def of(classes=("cat", "dog"), recalls=(1.0, 0.25), health=HEALTH):
    last = epoch(2).model_copy(update={"health": health, "source_recalls": list(recalls)})
    return examined(trial(7, epochs=[epoch(1), last]), classes)


def test_the_gap_is_that_before_training_and_after_the_last_epoch():
    found = of()
    assert (found.trial, found.epoch) == (7, 2)
    assert found.gaps == {"domain_accuracy": (0.83, 0.64), "mmd": (0.22, 0.031)}
    assert "told apart 83% -> 64%, MMD 0.22 -> 0.031" in found.lines()[0]


def test_the_least_recognised_class_comes_first():
    assert of().lines()[1].endswith("dog 25%, cat 100%")


def test_a_class_that_the_hold_out_lacks_is_null_and_is_not_shown():
    found = of(recalls=(None, 0.5))
    assert found.summary()["source_recalls"] == {"cat": None, "dog": 0.5}
    assert found.lines()[1].endswith("hold-out: dog 50%")


def test_of_many_classes_the_worst_are_shown_and_the_rest_is_counted():
    classes = [f"c{number:02}" for number in range(20)]
    line = of(classes, [number / 20 for number in range(20)]).lines()[1]
    assert "c00 0%, c01 5%" in line
    assert line.endswith("c11 55%, and 8 from 60% up")


def test_a_trial_of_an_older_study_has_nothing_to_show_and_one_without_an_epoch_is_none():
    assert of(health={"domain_accuracy": 0.6}, recalls=()).lines() == []
    assert examined(trial(1, objectives=[]), ("cat", "dog")) is None
