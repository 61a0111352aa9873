"""A person's own function as a backbone: from the search-space file to a served version."""

import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ray_tl import api
from ray_tl.config import Component, TrialConfig, UserFunction
from ray_tl.errors import BrokenBundle, InvalidInput
from ray_tl.models.backbones import BACKBONES, BackboneContext, user
from ray_tl.models.backbones.common import forget_sizes
from ray_tl.models.backbones.user import build_user_backbone, register_user_backbones
from ray_tl.models.transfer_model import build_transfer_model
from ray_tl.promotion.bundle import CODE, Lineage, ModelSpec, load_bundle, write_bundle
from ray_tl.search_space import load_search_file
from ray_tl.study.records import StudySpec
from tests.models.smallest import feature_dim, num_stages

SOURCE = """
from torch import nn

def build(channels: int, *, width: int = 6, deep: bool = False):
    return [
        ("conv", nn.Conv2d(channels, width, 3)),
        ("pool", nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
    ]
"""
SEARCH = """
backbones: {my_net: my_models.py:build}
search: {num_trials: 2}
trial:
  backbone: {my_net: {width: {choice: [4, 6]}}}
"""


def function(source: str = SOURCE) -> UserFunction:
    return UserFunction(path="my_models.py", function="build", source=source)


def returning(what: str) -> UserFunction:
    return function(f"from torch import nn\ndef build():\n    return {what}\n")


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What is registered here is not there for other tests of the process."""
    for name in ("_factories", "_ranges"):
        monkeypatch.setattr(BACKBONES, name, dict(getattr(BACKBONES, name)))
    monkeypatch.setattr(user, "_registered", {})
    yield
    forget_sizes()


@pytest.fixture
def registered():
    register_user_backbones({"my_net": function()})


def test_function_of_a_search_file_is_found_beside_it_and_kept_whole(tmp_path):
    (tmp_path / "my_models.py").write_text(SOURCE)
    (tmp_path / "x.yaml").write_text(SEARCH)
    found = load_search_file(tmp_path / "x.yaml").backbones["my_net"]
    assert found == UserFunction(path=str(tmp_path / "my_models.py"), function="build", source=SOURCE)


@pytest.mark.parametrize(
    ("named", "rule"), [("gone.py:build", "gone.py can't be read"), ("my_net", "a file and a fun")]
)
def test_a_function_that_is_not_there_is_named_when_the_file_is_read(named, rule, tmp_path):
    (tmp_path / "x.yaml").write_text(SEARCH.replace("my_models.py:build", named))
    with pytest.raises(InvalidInput, match=rule):
        load_search_file(tmp_path / "x.yaml")


def test_its_layers_are_planned_from_the_file_that_names_it(tmp_path):
    (tmp_path / "my_models.py").write_text(SOURCE)
    (tmp_path / "x.yaml").write_text(SEARCH)
    assert api.plan(tmp_path / "x.yaml").config.backbone.name == "my_net"


def test_weights_beside_a_search_file_are_found_from_anywhere(tmp_path):
    (tmp_path / "mine.pth").touch()
    (tmp_path / "x.yaml").write_text("trial: {backbone: {choice: [{resnet18: {weights: mine.pth}}, small_cnn]}}")
    tree = load_search_file(tmp_path / "x.yaml").trial["backbone"]
    assert tree == {"choice": [{"resnet18": {"weights": str(tmp_path / "mine.pth")}}, "small_cnn"]}


def test_weights_and_tokenizer_are_found_beside_the_file_and_else_here_whatever_they_are_called(tmp_path, monkeypatch):
    space, here = tmp_path / "space", tmp_path / "here"
    for folder in (space / "mine", here / "mine", here / "ours"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    (space / "x.yaml").write_text(
        "data: {modality: text, tokenizer: mine}\n"
        "trial:\n  backbone: {choice: {clip: {weights: {choice: [mine, ours, nowhere, none]}}, minilm: {pool: mine}}}\n"
        "  method: source_only\n"
    )
    found = load_search_file(space / "x.yaml")
    assert found.data.tokenizer == str(space / "mine")
    networks = found.trial["backbone"]["choice"]
    assert networks["clip"]["weights"] == {"choice": [str(space / "mine"), str(here / "ours"), "nowhere", "none"]}
    assert networks["minilm"] == {"pool": "mine"}


def test_its_parameters_are_what_a_search_may_choose(registered):
    assert [(key, value.type, value.default) for key, value in BACKBONES.parameters("my_net").items()] == [
        ("width", "int", 6),
        ("deep", "bool", False),
    ]


def test_a_parameter_without_annotation_takes_any_value():
    bare = SOURCE.replace("channels: int, *, width: int = 6, deep: bool = False", "channels, width=6, deep=False")
    register_user_backbones({"my_net": function(bare)})
    assert {value.type for value in BACKBONES.parameters("my_net").values()} == {"any"}
    assert feature_dim(Component(name="my_net", params={"width": 4, "deep": "very"}), 1, 32) == 4


LISTS = """
from torch import nn

def build(channels, image_size, widths=(8, 8), **others):
    conv = nn.Conv2d(channels, widths[0], 3)
    return nn.Sequential(conv, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[0], widths[1])))
"""


def test_whole_numbers_in_a_list_come_to_the_function_whole(tmp_path):
    (tmp_path / "my_models.py").write_text(LISTS)
    (tmp_path / "x.yaml").write_text(SEARCH.replace("{width: {choice: [4, 6]}}", "{widths: [4, {int: [5, 5]}]}"))
    first, second, _ = api.plan(tmp_path / "x.yaml").layers
    assert (first.num_parameters, second.num_parameters) == (3 * 4 * 9 + 4, 4 * 5 + 5)


def test_arguments_that_have_no_name_of_their_own_are_not_asked_for():
    register_user_backbones({"my_net": function(LISTS)})
    assert list(BACKBONES.parameters("my_net")) == ["widths"]


def test_a_function_that_breaks_down_is_named_with_what_it_was_given():
    register_user_backbones({"my_net": function(LISTS)})
    with pytest.raises(InvalidInput, match=r"my_net.*breaks down with \(channels=1, image_size=32, widths=3\): Type"):
        feature_dim(Component(name="my_net", params={"widths": 3}), 1, 32)


def test_depth_and_width_follow_from_what_it_builds(registered):
    component = Component(name="my_net", params={"width": 4})
    assert (num_stages(component, 1, 32), feature_dim(component, 1, 32)) == (2, 4)


def test_it_sees_normalised_images(registered):
    """A convolution and a mean by hand, of images that are mapped from 0..1 to -1..1."""
    backbone = BACKBONES.create("my_net", {}, BackboneContext(1))
    images = torch.rand(2, 1, 8, 8)
    expected = backbone.stages[0](2 * images - 1).relu().mean((2, 3))
    assert_close(backbone(backbone.entry(images)), expected)


def test_a_changed_function_takes_the_place_of_the_old_one(registered):
    component = Component(name="my_net")
    assert feature_dim(component, 3) == 6
    register_user_backbones({"my_net": function(SOURCE.replace("width: int = 6", "width: int = 9"))})
    assert feature_dim(component, 3) == 9


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        ("nn.Linear(2, 2)", "gives Linear; return a torch.nn.Sequential or a list"),
        ("[]", "gives list; return"),
        ("[('a', nn.Identity()), ('a', nn.Flatten())]", "share a name"),
        ("nn.Sequential(nn.Conv2d(3, 4, 3))", r"gives \[1, 4, 6, 6\] for an image; .* pool and flatten"),
        ("nn.Sequential(nn.Conv2d(5, 4, 3))", "can't take an image .*channels"),
    ],
)
def test_what_is_no_backbone_is_refused(what, rule):
    with pytest.raises(InvalidInput, match=rule):
        build_user_backbone("my_net", {}, returning(what), BackboneContext(image_size=8))


@pytest.mark.parametrize(
    ("name", "source", "rule"),
    [
        ("my_net", "import nothing_like_it", "can't be run .*nothing_like_it.*; it must stand alone"),
        ("my_net", "def other(): ...", "has no function 'build'; it has other"),
        ("resnet18", SOURCE, "has the name of a backbone of ray_tl"),
    ],
)
def test_a_function_that_can_not_be_had_is_refused(name, source, rule):
    with pytest.raises(InvalidInput, match=rule):
        register_user_backbones({name: function(source)})


def test_study_gives_every_worker_the_same_source():
    """A study that was begun before there were such functions can still be read."""
    fields = {"name": "x", "data": {"source": "a", "target": "b"}, "search": {}, "trees": {}, "data_fingerprint": ""}
    rest = {"classes": ["a"], "source_histogram": [1.0], "num_target": 1, "created_at": ""}
    old = StudySpec.model_validate({**fields, **rest})
    new = StudySpec.model_validate({**fields, **rest, "backbones": {"my_net": function().model_dump()}})
    assert old.backbones == {}
    assert StudySpec.model_validate_json(new.model_dump_json()).backbones == {"my_net": function()}


@pytest.fixture
def version(tmp_path):
    """A promoted version of a network with 5 features."""
    spec = ModelSpec.model_validate(
        {"backbone": {"my_own": {"width": 5}}, "preprocessing": {"image_size": 8}, "classes": ["cat", "dog"]}
    )
    context = BackboneContext(image_size=8, function=function())
    model = build_transfer_model(spec.backbone, 2, context).eval()
    lineage = Lineage(
        study="pets",
        trial=0,
        config=TrialConfig(backbone=spec.backbone),
        data_fingerprint="",
        scores={"im": math.nan},
        created_at="2026-01-02T03:04:05+00:00",
        libraries={},
    )
    write_bundle(tmp_path / "v1", model, spec, lineage, function())
    return tmp_path / "v1", model


def test_a_version_holds_the_function_and_builds_with_it(version):
    folder, model = version
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    assert (folder / CODE).read_text() == SOURCE
    assert "my_own" not in BACKBONES.names()
    assert_close(
        torch.from_numpy(load_bundle(folder).probabilities(images.numpy())), model(images)[1].softmax(1), rtol=0, atol=0
    )


def test_a_function_that_has_changed_in_a_version_is_never_run(version):
    folder, _ = version
    witness = folder.parent / "witness"
    (folder / CODE).write_text(f"{SOURCE}\nopen({str(witness)!r}, 'w')")
    with pytest.raises(BrokenBundle, match=r"backbone\.py has"):
        load_bundle(folder)
    assert not Path(witness).exists()


def test_a_version_without_its_function_is_refused(version):
    folder, _ = version
    (folder / CODE).unlink()
    with pytest.raises(BrokenBundle, match=r"backbone.py is missing"):
        load_bundle(folder)


def test_a_parameter_of_the_name_that_is_ours_is_refused():
    with pytest.raises(InvalidInput, match=r"backbones\.mine: a parameter called 'context' can't be chosen"):
        register_user_backbones({"mine": function("def build(context):\n    return []\n")})
