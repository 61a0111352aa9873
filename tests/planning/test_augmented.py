"""Source-only with the augmentation of the space is in the pool wherever a space augments."""

from pathlib import Path

import pytest

from ray_tl import api
from ray_tl.components import catalogue
from ray_tl.config import Component
from ray_tl.planning.augmented import augmented_source_only
from ray_tl.search_space import SearchFile, SearchSpace, load_search_file

SHIPPED = Path(__file__).parents[2] / "search_spaces"


def augmented(num_trials=16, **trees):
    space = SearchSpace({"backbone": "tiny_cnn", **trees}, 8, 0).resolved(catalogue())
    return augmented_source_only(space, num_trials)


def test_it_is_the_baseline_but_for_the_augmentation():
    trees = {"optimizer": {"adamw": {"lr": {"log_uniform": [1e-4, 1e-2]}}}, "method": {"choice": ["dann", "im"]}}
    (config,) = augmented(augmentation={"affine": {"scale": {"uniform": [0.25, 0.75]}}}, **trees)
    assert config.augmentation == Component(name="affine", params={"scale": 0.5})
    assert config.method == Component(name="source_only")
    baseline = SearchSpace({"backbone": "tiny_cnn", **trees}, 8, 0).baseline()
    assert config.model_copy(update={"augmentation": Component(name="none")}) == baseline


def test_of_several_augmentations_the_first_that_is_one_counts():
    (config,) = augmented(augmentation={"choice": {"none": None, "flip": {"vertical": 0.0}, "affine": None}})
    assert config.augmentation == Component(name="flip", params={"vertical": 0.0})


@pytest.mark.parametrize("trees", [{}, {"augmentation": "none"}, {"augmentation": {"choice": ["none"]}}])
def test_a_space_that_augments_nothing_has_none(trees):
    assert augmented(**trees) == ()


@pytest.mark.parametrize(("num_trials", "expected"), [(1, 0), (3, 0), (4, 1), (100, 1)])
def test_a_short_search_has_no_time_for_it(num_trials, expected):
    assert len(augmented(num_trials, augmentation="affine")) == expected


def test_the_baseline_comes_first_and_the_augmented_one_next(folders, tmp_path):
    trial = {"backbone": {"tiny_cnn": {"width": 8}}, "method": "im", "augmentation": {"choice": ["none", "affine"]}}
    file = SearchFile(data={"image_size": 8, "channels": 1, "holdout_fraction": 0.3}, trial=trial)
    first = api.plan_search(file, *folders, name="planned", home=tmp_path).store.spec.first
    assert [config.augmentation.name for config in first] == ["none", "affine"]
    assert [config.method.name for config in first] == ["source_only", "source_only"]


def test_the_shipped_space_of_digits_zooms():
    file = load_search_file(SHIPPED / "digits.yaml")
    (config,) = augmented_source_only(file.space().resolved(catalogue()), file.search.num_trials)
    assert config.augmentation.name == "affine"
