"""The advice is a value: rules are tested with literal situations, measurements on domains whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FixedTrial

from ray_tl.adaptation.method import METHODS
from ray_tl.components import catalogue
from ray_tl.config import Component, TrialConfig
from ray_tl.models.backbones import is_pretrained
from ray_tl.planning.advisor import Situation, advise, examine
from ray_tl.search_space import SearchFile, SearchSpace, load_search_file
from ray_tl.study.records import Advice
from tests.training.tiny import tiny_config, tiny_data, tiny_pair

SHIPPED = Path(__file__).parents[2] / "search_spaces"
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


def sampled(found: SearchSpace, advice: Advice) -> TrialConfig:
    """The configuration that a sampler gives at an advised point."""
    return found.sample(FixedTrial(advice.params))


def advised(situation: Situation, limit: int = 9) -> list[dict]:
    return [advice.params for advice in advise(space(), situation, limit)]


def test_pretrained_features_are_frozen_first_and_made_confident_on_the_target():
    first = advised(ALIKE)[0]
    assert (first["freeze_depth"], first["method"], first["adaptor"]) == (9, "im", "bottleneck")


def test_domains_that_are_told_apart_are_aligned():
    near, far = (replace(ALIKE, domain_accuracy=accuracy) for accuracy in (0.55, 0.8))
    assert [params["method"] for params in advised(near, 3)] == ["im", "mcc", "mcc"]
    assert [params["method"] for params in advised(far, 3)] == ["im", "mmd", "mcc"]


@pytest.mark.parametrize(("num_source", "probe", "depth"), [(9000, 0.9, 0), (900, 0.5, 4), (900, 0.9, 7), (90, 0.9, 7)])
def test_more_is_trained_the_more_examples_there_are_and_the_less_the_features_fit(num_source, probe, depth):
    deeper = advised(replace(ALIKE, num_source=num_source, probe_accuracy=probe))[1]
    assert deeper["freeze_depth"] == depth
    assert (deeper["unfreezing"], deeper["lr_multipliers"]) == ("gradual", "layer_decay")


@pytest.mark.parametrize(("num_source", "probe", "depth"), [(9000, 0.9, 0), (900, 0.5, 4), (900, 0.9, 7)])
def test_a_plain_fine_tune_is_tried_too(num_source, probe, depth):
    situation = replace(ALIKE, num_source=num_source, probe_accuracy=probe, domain_accuracy=0.9)
    plain = next(each for each in advise(space(), situation, 9) if each.reason.startswith("the plain fine-tune"))
    found = [plain.params[field] for field in ("freeze_depth", "method", "unfreezing", "lr_multipliers", "domain_norm")]
    assert found == [depth, "source_only", "fixed", "uniform", "shared"]
    assert (
        f"must beat: {'' if num_source == 9000 or probe < 0.8 else 'only '}{num_source // 9} examples" in plain.reason
    )


def test_where_nothing_but_the_head_may_train_no_fine_tune_is_advised():
    reasons = [each.reason for each in advise(space(freeze_depth="head_only"), ALIKE, 9)]
    assert reasons
    assert not [reason for reason in reasons if "fine-tune" in reason or "stages train too" in reason]


def test_words_for_a_depth_mean_what_they_mean_in_a_trial():
    pooled = replace(ALIKE, stage_sizes=(10, 10, 10, 0), num_source=9000)  # last_3 trains all that has parameters
    words = space(freeze_depth={"choice": ["head_only", "last_9", "last_1", "last_3"]})
    assert [advice.params["freeze_depth"] for advice in advise(words, pooled, 2)] == ["head_only", "last_3"]


def test_domains_far_apart_get_statistics_of_their_own():
    near, far = (replace(ALIKE, domain_accuracy=accuracy) for accuracy in (0.55, 0.95))
    assert [params["domain_norm"] for params in advised(near, 2)] == ["shared", "shared"]
    assert [params["domain_norm"] for params in advised(far, 3)] == ["shared", "shared", "separate"]


def test_labelled_target_examples_are_used_first():
    advice = advise(space(), replace(ALIKE, num_target_labelled=27), 1)[0]
    assert advice.params["method"] == "source_and_target"
    assert advice.reason.startswith("27 target examples have labels")


def test_without_pretrained_weights_everything_learns_with_augmentation():
    for params in advised(replace(ALIKE, is_pretrained=False)):
        assert (params["freeze_depth"], params["augmentation"]) == (0, "affine")


def test_every_reason_names_the_figure_that_it_rests_on():
    reasons = [advice.reason for advice in advise(space(), replace(ALIKE, domain_accuracy=0.8), 3)]
    for reason, figure in zip(reasons, ["90%", "80%", "100 examples a class"], strict=True):
        assert figure in reason


def test_a_reason_speaks_of_what_the_space_has_and_of_nothing_else():
    far = replace(ALIKE, num_source=9000, domain_accuracy=0.95)
    full = [advice.reason for advice in advise(space(), far, 3)]
    bare = [advice.reason for advice in advise(space(domain_norm="shared", unfreezing="fixed"), far, 3)]
    told = "domains this far apart with statistics of their own", "one stage after the other", "shallow stages slowest"
    assert all(clause in full[2] for clause in told)
    assert bare[2].startswith("1000 examples a class, and features that classify 90%: most stages train too, shallow")
    assert not [clause for clause in told[:2] if clause in bare[2]]


WIDE = {
    "adaptor": {"choice": {"none": None, "bottleneck": {"width": "auto", "dropout": "auto"}}},
    "method": {"choice": {"source_only": None, "mcc": {"temperature": "auto"}, "bnm": None, "im": None}},
    "loss_weighting": {"choice": {"constant": None, "linear": {"domain": {"log_uniform": [0.1, 3]}}}},
    "label_smoothing": {"uniform": [0.0, 0.2]},
    "optimizer": {"choice": {"sgd": {"lr": "auto"}, "adamw": {"lr": {"log_uniform": [1e-4, 1e-2]}}}},
    "batch_size": {"choice": [32, 64]},
}


def test_the_first_trial_is_the_published_recipe_and_no_middle_of_a_range():
    config = sampled(space(**WIDE), advise(space(**WIDE), ALIKE, 1)[0])
    assert config.method == Component(name="im")
    assert (config.label_smoothing, config.batch_size, config.freeze_depth) == (0.1, 64, 9)
    assert config.optimizer == Component(name="adamw", params={"lr": 1e-3})
    assert config.loss_weighting == Component(name="linear", params={"domain": 1.0})
    assert config.adaptor == Component(name="bottleneck", params={"width": 256, "dropout": 0.0})


def test_a_method_has_the_parameters_of_its_authors():
    (mcc,) = [each for each in advise(space(**WIDE), ALIKE, 4) if "without confusion" in each.reason]
    assert mcc.params["method.mcc.temperature"] == 2.5
    assert "method as in Jin et al., 2020." in mcc.reason


def test_what_the_space_does_not_hold_is_replaced_by_what_is_nearest_and_the_reason_says_so():
    narrow = {**WIDE, "optimizer": {"adamw": {"lr": {"log_uniform": [4e-3, 1e-2]}}}, "batch_size": {"choice": [16, 48]}}
    narrow |= {"loss_weighting": {"choice": {"dann": None, "constant": None}}, "label_smoothing": 0.05}
    advice = advise(space(**narrow), ALIKE, 1)[0]
    assert advice.params["optimizer.adamw.lr"] == 4e-3
    assert (advice.params["batch_size"], advice.params["loss_weighting"]) == (48, "dann")
    for words in ("lr 0.004 and not 0.001", "batch_size 48 and not 64", "dann and not linear", "0.05 and not 0.1"):
        assert words in advice.reason


def test_a_value_that_depends_on_another_field_is_stated_too():
    cases = {"by": "backbone", "cases": {"efficientnet_lite0": {"mcc": {"temperature": {"log_uniform": [1, 5]}}}}}
    found = advise(space(method=cases), ALIKE, 9)
    assert {each.params["method.efficientnet_lite0.mcc.temperature"] for each in found} == {2.5}


FOR_ABSENT = {"partial_mcc", "ba3us", "pada"}
WITH_ABSENT = ["source_only", "im", "bnm", "mcc", "mmd", "dann", *sorted(FOR_ABSENT)]


def methods_for(said: str, limit: int = 4, **changes: object) -> list[object]:
    found = advise(space(method={"choice": WITH_ABSENT}), replace(ALIKE, target_classes=said, **changes), limit)
    return [each.params["method"] for each in found]


@pytest.mark.parametrize("is_pretrained", [True, False])
@pytest.mark.parametrize(("said", "expected"), [("same", 0), ("stated", 0), ("unknown", 1), ("subset", 2)])
def test_what_is_said_of_the_classes_decides_how_many_first_trials_expect_absent_ones(said, expected, is_pretrained):
    methods = methods_for(said, is_pretrained=is_pretrained)
    assert sum(method in FOR_ABSENT for method in methods) == expected


@pytest.mark.parametrize("is_pretrained", [True, False])
def test_where_classes_may_be_absent_as_users_say_methods_for_that_come_first(is_pretrained):
    first, second, third, *_ = methods_for("subset", is_pretrained=is_pretrained)
    assert {first, second} <= FOR_ABSENT
    assert METHODS.family(first) != METHODS.family(second)
    assert third not in FOR_ABSENT


def test_of_two_classes_none_is_thought_absent_unless_users_say_so():
    assert not FOR_ABSENT & set(methods_for("unknown", num_classes=2))
    assert FOR_ABSENT & set(methods_for("subset", num_classes=2))


@pytest.mark.parametrize(("said", "trust"), [("subset", 1.0), ("unknown", 0.5)])
@pytest.mark.parametrize("is_pretrained", [True, False])
def test_presence_is_trusted_as_its_authors_do_where_users_say_so_and_else_by_half(said, trust, is_pretrained):
    trees = {"method": {"choice": {"mcc": None, "partial_mcc": {"trust": "auto", "temperature": "auto"}}}}
    situation = replace(ALIKE, target_classes=said, is_pretrained=is_pretrained)
    methods = [sampled(space(**trees), advice).method for advice in advise(space(**trees), situation, 4)]
    params = next(method.params for method in methods if method.name == "partial_mcc")
    assert params == {"trust": trust, "temperature": 2.5}


def test_without_pretrained_weights_the_loss_of_a_method_for_absent_classes_has_its_authors_weight():
    trees = {
        "method": {"choice": ["mcc", "ba3us"]},
        "loss_weighting": {"linear": {"domain": {"log_uniform": [0.5, 8]}}},
    }
    found = advise(space(**trees), replace(ALIKE, is_pretrained=False, target_classes="subset"), 1)[0]
    assert (found.params["method"], found.params["loss_weighting.linear.domain"]) == ("ba3us", 1.0)


@pytest.mark.parametrize(("name", "is_pretrained"), [("digits.yaml", False), ("image_folders.yaml", True)])
@pytest.mark.parametrize(("said", "expected"), [("same", 0), ("unknown", 1), ("subset", 2)])
def test_the_shipped_spaces_of_images_hold_methods_for_absent_classes(name, is_pretrained, said, expected):
    file = load_search_file(SHIPPED / name)
    situation = replace(ALIKE, is_pretrained=is_pretrained, target_classes=said)
    found = advise(file.space().resolved(catalogue()), situation, 5)
    assert sum(each.params["method"] in FOR_ABSENT for each in found) == expected


def test_the_reason_of_a_method_for_absent_classes_says_what_is_known_of_them():
    situations = {said: replace(ALIKE, target_classes=said) for said in ("subset", "unknown")}
    reasons = {said: advise(space(method="pada"), each, 1)[0].reason for said, each in situations.items()}
    assert reasons["subset"].startswith("the target may lack classes of the source, as you say")
    assert reasons["unknown"].startswith("nothing is stated of the target's classes, and some may be absent")


def test_methods_that_the_space_lacks_are_passed_over():
    only = space(method={"choice": ["source_only", "mdd"]})
    assert {each.params["method"] for each in advise(only, ALIKE, 99)} == {"source_only", "mdd"}


def test_every_method_of_a_space_is_tried_once_where_there_is_room():
    methods = ["source_only", "im", "knn", "fixmatch", "coral", "random_forest", "adabn"]
    found = advise(space(method={"choice": methods}), ALIKE, 99)
    assert {each.params["method"] for each in found} == set(methods)


FAMILIES = {
    "confidence": {"im", "bnm", "mcc"},
    "alignment": {"mmd", "dann", "jan"},
    "closed form": {"logistic", "coral_closed"},
}


@pytest.mark.parametrize("limit", [5, 7, 9])
@pytest.mark.parametrize("accuracy", [0.55, 0.8, 0.95])
def test_the_first_recipes_are_of_several_families(limit, accuracy):
    methods = ["source_only", *(name for names in FAMILIES.values() for name in sorted(names))]
    found = advise(space(method={"choice": methods}), replace(ALIKE, domain_accuracy=accuracy), limit)
    early = {each.params["method"] for each in found[:6]}
    is_fine_tuned = any("stages train too" in each.reason for each in found[:6])
    assert len(found) == limit
    assert sum(bool(early & names) for names in FAMILIES.values()) + is_fine_tuned >= 3


def test_advice_lies_in_the_space_and_is_never_given_twice():
    narrow = space(method="mcc", freeze_depth=9, unfreezing="fixed", lr_multipliers="uniform", adaptor="none")
    found = advise(narrow, replace(ALIKE, domain_accuracy=0.8), 9)
    assert len({repr(advice.params) for advice in found}) == len(found) == 1
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
