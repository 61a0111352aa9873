"""Networks of timm as stages."""

import socket

import pytest
import timm
import torch
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.models.backbones import BACKBONES, BackboneContext
from tests.models.smallest import num_stages

SMALL = BackboneContext(image_size=32)


def create(model: str, context: BackboneContext = SMALL, weights: str = "none"):
    torch.manual_seed(0)
    return BACKBONES.create("timm", {"model": model, "weights": weights}, context)


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        ("resnet10t", ["conv1", "layer1", "layer2", "layer3", "layer4", "pool"]),
        ("test_efficientnet", ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "pool"]),
        ("test_vit", ["patches", *(f"blocks.{number}" for number in range(6)), "pool"]),
        ("test_convnext", ["stem", "stages.0", "stages.1", "stages.2", "stages.3", "pool"]),
    ],
)
def test_stages_are_the_blocks_of_a_network(model, stages):
    assert list(create(model).names) == stages


@pytest.mark.parametrize("model", ["test_vit", "test_vit2", "test_efficientnet_gn"])
def test_features_are_those_of_timm_from_a_file(model, tmp_path):
    """A whole network with its output layer is saved; ViT at another size, whose positions timm interpolates."""
    network, path = timm.create_model(model, num_classes=10), str(tmp_path / "mine.pth")
    torch.save(network.state_dict(), path)
    backbone = create(model, weights=path).eval()
    fixed = {"img_size": 32} if "vit" in model else {}
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"file": path, "num_classes": 10}}
    twin = timm.create_model(model, num_classes=0, **fixed, **overlay).eval()
    x = backbone.entry(torch.rand(2, 3, 32, 32))
    assert_close(backbone(x), twin(x))


@pytest.mark.parametrize("model", ["swin_tiny_patch4_window7_224", "test_vit"])
def test_nothing_in_training_is_random(model):
    with torch.device("meta"):
        backbone = create(model, BackboneContext(image_size=224))
    chances = [part.p for part in backbone.modules() if isinstance(part, torch.nn.Dropout)]
    chances += [part.drop_prob for part in backbone.modules() if hasattr(part, "drop_prob")]
    assert set(chances) == {0.0}


@pytest.mark.parametrize("model", ["mixer_s32_224", "levit_128s"])
def test_a_network_whose_parts_do_not_follow_one_another_is_refused(model):
    with pytest.raises(InvalidInput, match=f"timm model '{model}' can't be cut into stages.*a function of your own"):
        create(model, BackboneContext(image_size=224))


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(UnknownName, match=r"timm.model='resnet10x' is not known; did you mean 'resnet10t'"):
        num_stages(Component(name="timm", params={"model": "resnet10x"}), 3)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(InvalidInput, match=r"timm model 'inception_v3' .* takes no images of 32 pixels"):
        num_stages(Component(name="timm", params={"model": "inception_v3"}), 3, 32)


def test_an_unreachable_hub_names_the_ways_out(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(InvalidInput, match=r"timm.weights='timm/test_vit.r160_in1k' .*no network.*give its folder"):
        create("test_vit", weights="pretrained")


def no_network(*arguments, **options):
    raise socket.gaierror("no network")
