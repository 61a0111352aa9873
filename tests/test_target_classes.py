import re

import pytest

from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions, validated
from ray_tl.search_space.target_classes import parse_target_classes, target_class_problems

WRONG = [
    ("some", "must be same, subset, unknown, or the share of each class"),
    (3, "must be same, subset, unknown, or the share of each class"),
    (None, "must be same, subset, unknown, or the share of each class"),
    ([0.5, 0.5], "must be same, subset, unknown, or the share of each class"),
    ({}, "the shares sum to 0 and must sum to 1"),
    ({"cat": 0.5, "dog": 0.4}, "the shares sum to 0.9 and must sum to 1; a class left out has the share 0"),
    ({"cat": 1.5, "dog": -0.5}, "cat=1.5, dog=-0.5: shares must be numbers in 0..1"),
    ({"cat": float("nan")}, "cat=nan: shares must be numbers in 0..1"),
    ({"cat": True}, "cat=True: shares must be numbers in 0..1"),
    ({"cat": "all"}, "cat='all': shares must be numbers in 0..1"),
    ({True: 1.0}, "True: names of classes must be texts; put them in quotes"),
    ({3: 0.5, "dog": "half"}, "3: names of classes must be texts; put them in quotes; dog='half': shares must be"),
]


@pytest.mark.parametrize("value", ["same", "subset", "unknown", {"cat": 0.3, "dog": 0.7}, {"7": 1}])
def test_what_is_stated_survives_a_round_trip_through_json(value):
    options = DataOptions.model_validate({"target_classes": value})
    assert options.target_classes == value
    assert DataOptions.model_validate_json(options.model_dump_json()) == options


def test_nothing_stated_means_that_shares_are_estimated():
    assert DataOptions().target_classes == "unknown"


def test_shares_stated_with_few_digits_need_not_sum_to_1_exactly():
    assert DataOptions(target_classes={"a": 0.333, "b": 0.333, "c": 0.333}).target_classes["a"] == 0.333


@pytest.mark.parametrize(("value", "said"), WRONG)
def test_anything_else_is_one_error_that_names_the_field(value, said):
    with pytest.raises(InvalidInput, match=rf"^data: target_classes={re.escape(repr(value))}: {re.escape(said)}"):
        validated(DataOptions, {"target_classes": value}, "data")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("same", "same"),
        (" unknown ", "unknown"),
        ("cat=0.3,dog=0.7", {"cat": 0.3, "dog": 0.7}),
        ("a=b=0.25, big dog = .75", {"a=b": 0.25, "big dog": 0.75}),
        ('{"a,b": 1, "c": 0}', {"a,b": 1.0, "c": 0.0}),
    ],
)
def test_command_line_states_the_same(text, meant):
    assert parse_target_classes(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sme", "must be same, subset, unknown"),
        ("cat=x,dog=0.7", "cat='x': shares must be numbers"),
        ("cat=0.5,cat=0.5", "cat is given twice; keep one"),
        ('{"cat": 0.5, "cat": 0.5}', 'key "cat" is given twice'),
        ("cat=0.5", "the shares sum to 0.5 and must sum to 1"),
        ("=1", "'': names of classes must be texts"),
        ("{cat: 1", "data.target_classes"),
    ],
)
def test_command_line_that_makes_no_sense_is_refused_with_the_name_of_the_field(text, said):
    with pytest.raises(InvalidInput, match=rf"^data\.target_classes={re.escape(repr(text))}: .*") as caught:
        parse_target_classes(text)
    assert said in str(caught.value)


def test_classes_that_the_source_lacks_are_named_with_the_nearest():
    assert target_class_problems({"cat": 0.3, "dgo": 0.7}, ["cat", "dog"]) == [
        "data.target_classes: 'dgo' is no class of the source; did you mean 'dog'? choose from cat, dog."
    ]


@pytest.mark.parametrize("known", ["same", "subset", "unknown", {"dog": 1.0}])
def test_nothing_is_wrong_with_classes_of_the_source(known):
    assert target_class_problems(known, ["cat", "dog"]) == []
