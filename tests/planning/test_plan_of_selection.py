"""What a search is refused for in its rule of choice, and what its trials know of the classes of the target."""

import numpy as np
import pytest
from PIL import Image

from ray_tl import api
from ray_tl.errors import InvalidInput
from ray_tl.search_space import SearchFile
from ray_tl.search_space.trees import Middle
from ray_tl.selection import ByAgreement, ByValidators, rule_of


def plan(folders, home, search=None, method="im", target_classes="unknown", settings=None, **trial):
    data = {"image_size": 8, "channels": 1, "holdout_fraction": 0.3, "target_classes": target_classes}
    fields = {"backbone": {"tiny_cnn": {"width": 8}}, "method": method, **trial}
    file = SearchFile(data=data, search=search or {}, trial=fields)
    return api.plan_search(file, *folders, settings=settings, name="planned", home=home).store


def test_a_study_keeps_the_rule_that_its_file_names(folders, tmp_path):
    named = {"validators": {"names": ["class_ami", "im"], "weights": [2, 0.5]}}
    plan(folders, tmp_path, {"selection": named})
    spec = api.plan_resumption("planned", home=tmp_path).store.spec
    assert (spec.search.selection.name, spec.search.selection.params) == ("validators", named["validators"])
    assert isinstance(rule_of(spec), ByValidators)


def test_the_rule_is_agreement_unless_another_is_named(folders, tmp_path):
    assert isinstance(rule_of(plan(folders, tmp_path).spec), ByAgreement)


@pytest.mark.parametrize(
    ("said", "expected"), [("subset", True), ("same", False), ("unknown", False), ({"a": 1.0}, False)]
)
def test_a_method_for_absent_classes_is_advised_where_some_may_be_absent(folders, tmp_path, said, expected):
    methods = {"choice": ["source_only", "im", "partial_mcc"]}  # two classes: unless users say so, none is absent
    advice = plan(folders, tmp_path, method=methods, target_classes=said).spec.advice
    assert ("partial_mcc" in {each.params["method"] for each in advice}) is expected


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"selection": "agreements"}, "search.selection: selection rule 'agreements' is not known; did you mean"),
        ({"selection": "validators"}, "search.selection: selection rule 'validators' needs 'names' (list of str)"),
        (
            {"selection": {"validators": {"names": ["mixvall"]}}},
            "search.selection: validator 'mixvall' is not known; did you mean 'mixval'?",
        ),
        (
            {"selection": {"validators": {"names": ["im"], "weights": [1, 2]}}},
            "search.selection: validators.weights=[1, 2] must be one number above 0 for each of ['im'].",
        ),
        ({"validators": ["source_accuracy", "im", "bnm", "entropie"]}, "validator 'entropie' is not known; did you"),
        (
            {"validators": ["source_accuracy", "im", "bnm", "mixval"]},
            "search.validators: 'mixval' looks at the end of a trial and can't be recorded each epoch; choose by it "
            "with selection: {validators: {names: [mixval]}}, or leave it out.",
        ),
    ],
)
def test_a_mistake_in_what_chooses_is_one_line_and_nothing_is_written(folders, tmp_path, search, said):
    with pytest.raises(InvalidInput) as raised:
        plan(folders, tmp_path / "home", search)
    (line,) = str(raised.value).splitlines()
    assert said in line
    assert not (tmp_path / "home" / "studies" / "planned").exists()


@pytest.mark.parametrize(
    "validators", [["source_accuracy", "im", "bnm"], ["source_accuracy", "im", "bnm", "neighbours"]]
)
def test_a_rule_that_asks_for_neighbours_where_there_are_none_to_believe_is_refused(folders, tmp_path, validators):
    # Noise, so that no space can be trusted; or they are not looked for at all.
    search = {"selection": {"validators": {"names": ["nearest_labels"]}}, "validators": validators}
    with pytest.raises(InvalidInput, match="'nearest_labels', and this study has no neighbours that can be trusted"):
        plan(folders, tmp_path / "home", search)
    assert not (tmp_path / "home" / "studies" / "planned").exists()


def test_mistakes_in_rule_validators_and_space_are_told_together(folders, tmp_path):
    search = {"selection": "best", "validators": ["source_accuracy", "im", "bnm", "dev"]}
    with pytest.raises(InvalidInput) as raised:
        plan(folders, tmp_path, search, method="mccc")
    for said in ("selection rule 'best'", "'dev' looks at the end", "adaptation method 'mccc'"):
        assert said in str(raised.value)


@pytest.mark.parametrize(
    ("target_classes", "expected"),
    [({"a": 0.75, "b": 0.25}, (0.75, 0.25)), ({"b": 1.0}, (0.0, 1.0)), ("same", (0.5, 0.5))],
)
def test_every_trial_knows_the_shares_that_are_stated(folders, tmp_path, target_classes, expected):
    store = plan(folders, tmp_path, target_classes=target_classes)
    assert store.space.sample(Middle()).target_shares == pytest.approx(expected)
    (baseline,) = store.spec.first
    assert baseline.target_shares == pytest.approx(expected)


@pytest.mark.parametrize("target_classes", ["unknown", "subset"])
def test_shares_that_are_not_stated_are_not_made_up(folders, tmp_path, target_classes):
    store = plan(folders, tmp_path, target_classes=target_classes)
    assert store.space.sample(Middle()).target_shares is None


def test_shares_in_the_space_stand_as_they_are(folders, tmp_path):
    store = plan(folders, tmp_path, target_classes="same", target_shares=[0.9, 0.1])
    assert store.space.sample(Middle()).target_shares == (0.9, 0.1)


def test_a_class_that_the_source_lacks_is_named_and_nothing_is_written(folders, tmp_path):
    with pytest.raises(InvalidInput, match=r"target_classes: 'c' is no class of the source.* choose from a, b"):
        plan(folders, tmp_path / "home", target_classes={"a": 0.5, "c": 0.5})
    assert not (tmp_path / "home" / "studies" / "planned").exists()


def test_a_setting_stands_in_for_what_the_file_says_of_the_target(folders, tmp_path):
    store = plan(folders, tmp_path, target_classes="same", settings={"target_classes": {"a": 0.25, "b": 0.75}})
    assert store.spec.data.options.target_classes == {"a": 0.25, "b": 0.75}
    assert store.space.sample(Middle()).target_shares == (0.25, 0.75)


def test_a_resumed_search_can_not_change_what_was_stated(folders, tmp_path):
    plan(folders, tmp_path)
    with pytest.raises(InvalidInput, match="target_classes"):
        api.plan_resumption("planned", {"target_classes": "same"}, tmp_path)


def test_the_source_counts_less_where_the_domains_are_told_apart(folders, tmp_path):
    (bright := tmp_path / "bright").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(200, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(bright / f"{number}.png")
    near = plan(folders, tmp_path / "near").spec.source_weight
    far = plan((folders[0], str(bright)), tmp_path / "far").spec.source_weight
    assert 0 <= far < near <= 1
