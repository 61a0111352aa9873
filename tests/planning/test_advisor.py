"""The advice is a value: rules are tested with literal situations, measurements on domains whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from ray_tl.components import catalogue
from ray_tl.config import Component
from ray_tl.models.backbones import is_pretrained
from ray_tl.planning.advisor import Situation, advise, examine
from ray_tl.search_space import SearchFile, SearchSpace
from tests.training.tiny import tiny_config, tiny_data, tiny_pair

ALIKE = Situation(
    num_source=900,
    num_target=900,
    num_classes=9,
    num_target_labelled=0,
    stage_sizes=(10,) * 9,
    is_pretrained=True,
    domain_accuracy=0.55,
    probe_accuracy=0.9,
)
TREES = {
    "backbone": "efficientnet_lite0",
    "freeze_depth": {"choice": [0, 4, 7, 9]},
    "adaptor": {"choice": {"none": None, "bottleneck": {"width": "auto"}}},
    "unfreezing": {"choice": ["fixed", "gradual"]},
    "lr_multipliers": {"choice": {"uniform": None, "layer_decay": {"decay": "auto"}}},
    "domain_norm": {"choice": ["shared", "separate"]},
    "augmentation": {"choice": ["none", "affine"]},
    "method": {"choice": ["source_only", "mmd", "mcc", "source_and_target", "im"]},
}


def space(**trees: object) -> SearchSpace:
    return SearchFile.model_validate({"trial": {**TREES, **trees}}).space().resolved(catalogue())


def advised(situation: Situation, limit: int = 9) -> list[dict]:
    return [advice.params for advice in advise(space(), situation, limit)]


def test_pretrained_features_are_frozen_first_and_made_confident_on_the_target():
    first = advised(ALIKE)[0]
    assert (first["freeze_depth"], first["method"], first["adaptor"]) == (9, "im", "bottleneck")


def test_domains_that_are_told_apart_are_aligned():
    assert "mmd" not in [params["method"] for params in advised(ALIKE)]
    assert [params["method"] for params in advised(replace(ALIKE, domain_accuracy=0.8))][1] == "mmd"


@pytest.mark.parametrize(("num_source", "probe", "depth"), [(9000, 0.9, 0), (900, 0.5, 4), (900, 0.9, 7), (90, 0.9, 9)])
def test_more_is_trained_the_more_examples_there_are_and_the_less_the_features_fit(num_source, probe, depth):
    deeper = advised(replace(ALIKE, num_source=num_source, probe_accuracy=probe))[1]
    assert deeper["freeze_depth"] == depth
    assert (deeper["unfreezing"], deeper["lr_multipliers"]) == ("gradual", "layer_decay")


@pytest.mark.parametrize(("num_source", "probe", "depth"), [(9000, 0.9, 0), (900, 0.5, 4)])
def test_where_more_is_trained_a_plain_fine_tune_of_it_is_tried_too(num_source, probe, depth):
    situation = replace(ALIKE, num_source=num_source, probe_accuracy=probe, domain_accuracy=0.9)
    last = advise(space(), situation, 9)[-1]
    found = [last.params[field] for field in ("freeze_depth", "method", "unfreezing", "lr_multipliers", "domain_norm")]
    assert found == [depth, "source_only", "fixed", "layer_decay", "shared"]
    assert last.reason.startswith(f"the plain fine-tune that all others must beat: {num_source // 9} examples a class")


def test_where_features_fit_and_examples_are_few_there_is_no_plain_fine_tune():
    assert "source_only" not in [params["method"] for params in advised(ALIKE)]


def test_words_for_a_depth_mean_what_they_mean_in_a_trial():
    pooled = replace(ALIKE, stage_sizes=(10, 10, 10, 0), num_source=9000)  # last_3 trains all that has parameters
    words = space(freeze_depth={"choice": ["head_only", "last_9", "last_1", "last_3"]})
    found = [advice.params["freeze_depth"] for advice in advise(words, pooled, 9)]
    assert (found[0], found[-1]) == ("head_only", "last_3")


def test_domains_far_apart_get_statistics_of_their_own():
    assert advised(ALIKE)[-1]["domain_norm"] == "shared"
    assert advised(replace(ALIKE, domain_accuracy=0.95))[-1]["domain_norm"] == "separate"


def test_labelled_target_examples_are_used_first():
    advice = advise(space(), replace(ALIKE, num_target_labelled=27), 1)[0]
    assert advice.params["method"] == "source_and_target"
    assert advice.reason.startswith("27 target examples have labels")


def test_without_pretrained_weights_everything_learns_with_augmentation():
    for params in advised(replace(ALIKE, is_pretrained=False)):
        assert (params["freeze_depth"], params["augmentation"]) == (0, "affine")


def test_every_reason_names_the_figure_that_it_rests_on():
    reasons = [advice.reason for advice in advise(space(), replace(ALIKE, domain_accuracy=0.8), 9)]
    for reason, figure in zip(reasons, ["90%", "80%", "100 examples a class"], strict=True):
        assert figure in reason


def test_a_reason_speaks_of_what_the_space_has_and_of_nothing_else():
    far = replace(ALIKE, num_source=9000, domain_accuracy=0.95)
    full = [advice.reason for advice in advise(space(), far, 9)]
    narrow = space(domain_norm="shared", unfreezing="fixed", lr_multipliers="uniform")
    bare = [advice.reason for advice in advise(narrow, far, 9)]
    told = "domains this far apart with statistics of their own", "one stage after the other", "shallow stages slowest"
    assert all(clause in full[2] for clause in told)
    assert bare[2] == "1000 examples a class, and features that classify 90%: most stages train too."
    assert "shallow stages slowest" in full[3]
    assert "statistics" not in full[3]


def test_advice_lies_in_the_space_and_is_never_given_twice():
    narrow = space(method="mcc", freeze_depth=9, unfreezing="fixed", lr_multipliers="uniform", adaptor="none")
    found = advise(narrow, replace(ALIKE, domain_accuracy=0.8), 9)
    assert len({repr(advice.params) for advice in found}) == len(found) < 3
    assert all("method" not in advice.params for advice in found)  # nothing to choose


def test_the_limit_is_kept():
    assert len(advise(space(), replace(ALIKE, domain_accuracy=0.8), 2)) == 2


def test_a_field_that_depends_on_another_is_advised_too():
    cases = {"by": "backbone", "cases": {"efficientnet_lite0": {"int": [3, 8]}}}
    assert advise(space(freeze_depth=cases), ALIKE, 1)[0].params["freeze_depth.efficientnet_lite0"] == 8


def test_what_is_measured_tells_alike_domains_from_others():
    pair = tiny_pair(num_source=300, num_target=300)
    same = replace(pair, target=replace(pair.target, inputs=pair.source.inputs[::-1].copy()))
    apart, alike = (examine(tiny_config(), tiny_data(each)) for each in (pair, same))
    assert apart.domain_accuracy > 0.9 > 0.65 > alike.domain_accuracy
    assert apart.probe_accuracy > 0.9
    assert (apart.num_source, apart.num_classes, len(apart.stage_sizes)) == (300, 3, 3)


def test_features_that_say_nothing_about_the_classes_are_found_out():
    pair = tiny_pair(num_source=300)
    noise = np.random.default_rng(0).integers(0, 255, pair.source.inputs.shape).astype(np.uint8)
    situation = examine(tiny_config(), tiny_data(replace(pair, source=replace(pair.source, inputs=noise))))
    assert situation.probe_accuracy < 0.6


@pytest.mark.parametrize(
    ("backbone", "pretrained"),
    [("tiny_cnn", False), ({"efficientnet_lite0": {"weights": "none"}}, False), ("efficientnet_lite0", True)],
)
def test_a_backbone_without_weights_counts_as_not_pretrained(backbone, pretrained):
    assert is_pretrained(Component.model_validate(backbone)) is pretrained
