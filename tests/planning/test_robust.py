"""Robust fine-tunes are in the pool wherever a space fine-tunes what was pretrained, and nowhere else."""

from pathlib import Path

import pytest

from ray_tl.components import catalogue
from ray_tl.planning.robust import robust_fine_tunes
from ray_tl.search_space import DataOptions, SearchSpace, load_search_file

SHIPPED = Path(__file__).parents[2] / "search_spaces"


def robust(num_trials=24, **trees):
    space = SearchSpace({"backbone": "efficientnet_lite0", **trees}, 8, 0).resolved(catalogue())
    return robust_fine_tunes(space, DataOptions(), num_trials)


def test_as_many_stages_train_as_anywhere_in_the_space():
    wise, l2_sp = robust(freeze_depth={"choice": ["head_only", "last_2", "last_1"]}, method={"choice": ["dann", "im"]})
    assert (wise.averaging.name, l2_sp.regulariser.name) == ("wise_ft", "l2_sp")
    for config in (wise, l2_sp):
        assert config.freeze_depth == "last_2"
        assert config.method.name == "source_only"
        assert config.unfreezing.name == "probe_then_fine_tune"


def test_a_space_that_freezes_all_stages_has_none():
    assert robust(freeze_depth="head_only") == ()


def test_a_backbone_without_pretrained_weights_has_nothing_to_keep():
    assert robust(backbone={"efficientnet_lite0": {"weights": "none"}}, freeze_depth="everything") == ()


@pytest.mark.parametrize(("num_trials", "expected"), [(3, 0), (4, 1), (7, 1), (8, 2), (100, 2)])
def test_a_short_search_has_no_time_for_them(num_trials, expected):
    assert len(robust(num_trials, freeze_depth="last_1")) == expected


def test_of_a_depth_that_goes_with_the_backbone_the_pretrained_one_counts():
    backbone = {"choice": {"small_cnn": None, "efficientnet_lite0": None}}
    depth = {"by": "backbone", "cases": {"small_cnn": 0, "efficientnet_lite0": "last_1"}}
    assert [config.freeze_depth for config in robust(backbone=backbone, freeze_depth=depth)] == ["last_1", "last_1"]


def test_the_shipped_space_of_fine_tunes_has_both():
    file = load_search_file(SHIPPED / "fine_tuning.yaml")
    assert len(robust_fine_tunes(file.space().resolved(catalogue()), file.data, file.search.num_trials)) == 2
