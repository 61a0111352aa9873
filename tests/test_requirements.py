import pytest
from packaging.requirements import Requirement

from ray_tl.requirements import requirement_problems, unmet

NEEDS = {
    "ray-tl": [Requirement("torch>=2.11"), Requirement("optuna>=5")],
    "torchvision": [Requirement("torch==2.11.0")],
}


def test_what_is_installed_here_fits():
    assert requirement_problems() == []


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"torch": "2.11.0", "optuna": "5.0.1"}, []),
        ({"torch": "2.11.0+cu128", "optuna": "5.1.0rc1"}, []),
        ({"torch": "2.11.0", "optuna": None}, ["optuna is missing, but ray-tl needs optuna>=5; install that version."]),
        (
            {"torch": "2.12.0", "optuna": "5.0"},
            ["torch 2.12.0 is installed, but torchvision needs torch==2.11.0; install that version."],
        ),
    ],
)
def test_every_requirement_that_is_not_met_is_named(installed, expected):
    assert list(unmet(NEEDS, installed)) == expected


def test_all_are_named_at_once():
    assert len(list(unmet(NEEDS, {"torch": "2.9", "optuna": "4.0"}))) == 3


def test_a_package_that_is_not_installed_asks_for_nothing():
    assert requirement_problems(["no-such-package-anywhere"]) == []
