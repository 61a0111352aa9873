"""Every registered backbone keeps the promises of `StagedBackbone`."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.models.backbones import BACKBONES
from ray_tl.models.features import FEATURES, FeaturesContext
from ray_tl.models.stages import StagedBackbone
from tests.models.smallest import (
    FAMILIES,
    SIDES,
    TINY_TRANSFORMER,
    build,
    context,
    feature_dim,
    image_backbones,
    images,
    num_stages,
    smallest,
)

every_backbone = pytest.mark.parametrize("name", image_backbones())
every_family = pytest.mark.parametrize("name", FAMILIES)
PUBLISHED = {
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet50": 25.56,
    "resnet101": 44.55,
    "mobilenet_v2": 3.50,
    "mobilenet_v3_small": 2.54,
    "mobilenet_v3_large": 5.48,
    "efficientnet_b0": 5.29,
    "efficientnet_b1": 7.79,
    "efficientnet_b2": 9.11,
    "efficientnet_b3": 12.23,
    "efficientnet_b4": 19.34,
    "convnext_tiny": 28.59,
    "convnext_small": 50.22,
    "convnext_base": 88.59,
}
"""Millions of parameters of the whole networks, in torchvision's table of ImageNet models."""


@cache
def ready(name: str) -> StagedBackbone:
    """In training, nothing frozen; shared by tests that leave it so."""
    return build(name).train()


@cache
def shapes_alone(name: str) -> StagedBackbone:
    with torch.device("meta"):
        return BACKBONES.create(name, smallest(name).params, replace(context(name), load_weights=False))


def entered(name: str) -> Tensor:
    return ready(name).entry(images(name))


def num_parameters(backbone: StagedBackbone) -> int:
    return sum(parameter.numel() for parameter in backbone.parameters())


@every_family
def test_split_is_exact_at_every_depth_while_training(name):
    backbone, x = build(name).train(), entered(name)
    for depth in range(backbone.num_stages + 1):
        backbone.freeze(depth)
        with torch.no_grad():
            whole, before = backbone(x), backbone(x, stop=depth)
            assert torch.equal(backbone(before, start=depth), whole), f"depth {depth}"


@every_family
def test_freezing_twice_is_freezing_once(name):
    backbone = build(name).train()
    backbone.freeze(2)
    once = [(part.training, [p.requires_grad for p in part.parameters()]) for part in backbone.modules()]
    backbone.freeze(2)
    assert [(part.training, [p.requires_grad for p in part.parameters()]) for part in backbone.modules()] == once


@every_backbone
def test_stages_hold_every_parameter_once(name):
    backbone = shapes_alone(name)
    in_stages = [id(parameter) for stage in backbone.stages for parameter in stage.parameters()]
    assert sorted(in_stages) == sorted(id(parameter) for parameter in backbone.parameters())


@every_family
def test_every_parameter_gets_a_gradient_and_features_have_the_declared_width(name):
    backbone = ready(name)
    features = backbone(entered(name))
    assert features.shape == (2, backbone.feature_dim)
    features.square().sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


@every_family
def test_nothing_in_training_is_random(name):
    """Dropout would differ between ranks, whose random numbers do."""
    backbone, x = ready(name), entered(name)
    with torch.no_grad():
        assert torch.equal(backbone(x), backbone(x))


@every_family
def test_grey_images_fit_a_network_without_weights(name):
    backbone = build(name, channels=1).eval()
    with torch.no_grad():
        assert backbone(backbone.entry(images(name, channels=1))).isfinite().all()


@every_backbone
def test_depth_and_width_are_known_without_building(name):
    side = SIDES.get(name, 32)
    assert num_stages(smallest(name), 3, side) == shapes_alone(name).num_stages >= 3
    assert feature_dim(smallest(name), 3, side) == shapes_alone(name).feature_dim


@every_backbone
def test_every_stage_has_its_own_name(name):
    backbone = shapes_alone(name)
    assert len(set(backbone.names)) == backbone.num_stages


@every_family
def test_a_stage_leaves_its_input_as_it_is(name):
    x = entered(name)
    for stage in ready(name).stages:
        before = x.clone()
        after = stage(x)
        assert torch.equal(x, before)
        x = after.detach()


@every_family
def test_every_stage_before_the_last_can_be_tapped(name):
    backbone = shapes_alone(name)
    with torch.device("meta"):
        features = FEATURES.create("multi_scale", {"num_taps": backbone.num_stages - 1}, FeaturesContext(backbone))
        found = features(backbone, backbone.entry(images(name).to("meta")))
    assert found.shape == (2, features.feature_dim)


@every_backbone
def test_what_a_bundle_records_of_an_architecture_is_json(name):
    recorded = shapes_alone(name).architecture
    assert recorded is None or json.loads(json.dumps(recorded)) == recorded


@pytest.mark.parametrize("name", PUBLISHED)
def test_only_the_output_layer_is_left_out(name):
    backbone = shapes_alone(name)
    output_layer = 1000 * (backbone.feature_dim + 1)
    assert (num_parameters(backbone) + output_layer) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_auxiliary_branch_of_inception_is_left_out():
    """Torchvision's 27,161,264 less two classifiers; the auxiliary one: 768 to 128 1x1, 128 to 768 5x5, 768 to 1000."""
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 1000 * 769
    assert num_parameters(shapes_alone("inception_v3")) == 27_161_264 - auxiliary - 1000 * 2049


@pytest.mark.parametrize(("name", "whole"), [("vgg11_bn", 132_868_840), ("vgg16_bn", 138_365_992)])
def test_hidden_layers_of_vgg_are_left_out(name, whole):
    hidden = 4096 * (512 * 7 * 7 + 1) + 4096 * 4097
    assert num_parameters(shapes_alone(name)) == whole - hidden - 1000 * 4097


@pytest.mark.parametrize(("name", "whole", "patch"), [("vit_b_16", 86_567_656, 16), ("vit_b_32", 88_224_232, 32)])
def test_vit_has_a_position_for_each_patch_of_the_images(name, whole, patch):
    """Torchvision's sizes at 224 pixels."""
    fewer = (224 // patch) ** 2 - (32 // patch) ** 2
    assert num_parameters(shapes_alone(name)) == whole - 1000 * 769 - 768 * fewer


@pytest.mark.parametrize(
    ("name", "patch", "side", "left_out"), [("hf_vit", 16, 224, 769 * 768), ("dinov2", 14, 518, 768)]
)
def test_what_features_do_not_need_of_a_transformer_is_left_out(name, patch, side, left_out):
    """google/vit-base-patch16-224-in21k less its pooler, facebook/dinov2-base less its mask token."""
    sizes = {"weights": "none", "hidden_size": 768, "num_layers": 12, "num_heads": 12, "patch_size": patch}
    with torch.device("meta"):
        backbone = BACKBONES.create(name, sizes, replace(context(name), image_size=side))
    published = {"hf_vit": 86_389_248, "dinov2": 86_580_480}[name]
    assert num_parameters(backbone) == published - left_out


def test_tiny_cnn_is_tiny_and_normalises():
    backbone = build("tiny_cnn")
    assert num_parameters(backbone) < 2000
    assert sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()) == 2


@pytest.mark.parametrize("name", ["tiny_cnn", "small_cnn"])
def test_a_width_below_one_is_refused(name):
    with pytest.raises(InvalidInput, match=f"{name}.width=0 is too narrow; choose 1 or more"):
        num_stages(Component(name=name, params={"width": 0}), 3)


def test_an_unknown_backbone_lists_the_choices():
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        num_stages(Component(name="resnet81"), 3)


def test_images_too_small_for_inception_are_refused():
    with pytest.raises(InvalidInput, match=r"data.image_size=64 is too small for 'inception_v3'; choose 75 or more"):
        num_stages(smallest("inception_v3"), 3, 64)


@pytest.mark.parametrize(("name", "side", "choices"), [("vit_b_16", 100, "96 or 112"), ("dinov2", 8, "16")])
def test_images_that_are_no_whole_patches_are_refused(name, side, choices):
    with pytest.raises(InvalidInput, match=f"data.image_size={side} does not fit '{name}'.*; choose {choices}"):
        num_stages(smallest(name), 3, side)


@pytest.mark.parametrize(("change", "rule"), [({"num_layers": 0}, "too small"), ({"num_heads": 3}, "a multiple of")])
def test_sizes_that_make_no_network_are_refused(change, rule):
    with pytest.raises(InvalidInput, match=f"hf_vit.*{rule}"):
        num_stages(Component(name="hf_vit", params={"weights": "none", **TINY_TRANSFORMER, **change}), 3, 32)


def test_grey_images_are_normalised_by_the_mean_over_the_colours():
    entry = build("resnet18", channels=1).entry
    assert_close(entry(torch.full((1, 1, 4, 4), math.fsum([0.485, 0.456, 0.406]) / 3)), torch.zeros(1, 1, 4, 4))
