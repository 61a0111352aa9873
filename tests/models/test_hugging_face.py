"""Transformers' networks of images, from folders as `save_pretrained` writes them."""

import hashlib
import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from torch.testing import assert_close
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BACKBONES, BackboneContext
from ray_tl.models.stages import Normalisation
from tests.models.smallest import num_stages

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 48,
    "patch_size": 16,
    "initializer_range": 0.3,
}
KINDS = {"hf_vit": (ViTConfig, ViTModel), "dinov2": (Dinov2Config, Dinov2Model)}
CONTEXT = BackboneContext(image_size=32)
every_kind = pytest.mark.parametrize("name", KINDS)


def saved(name: str, folder: Path, **changes: float) -> Path:
    config, model = KINDS[name]
    torch.manual_seed(0)
    model(config(**SIZES, **changes)).save_pretrained(folder)
    return folder


@every_kind
@pytest.mark.parametrize("side", [32, 48])
def test_features_are_the_class_token_of_transformers_at_any_size(name, side, tmp_path):
    folder = saved(name, tmp_path)
    backbone = BACKBONES.create(name, {"weights": str(folder)}, BackboneContext(image_size=side)).eval()
    x = backbone.entry(torch.rand(2, 3, side, side))
    expected = KINDS[name][1].from_pretrained(folder).eval()(x, **interpolating(name)).last_hidden_state[:, 0]
    assert_close(backbone(x), expected)


def interpolating(name: str) -> dict[str, bool]:
    return {"interpolate_pos_encoding": True} if name == "hf_vit" else {}  # DINOv2 always does


@every_kind
def test_dropout_of_a_folder_is_left_out(name, tmp_path):
    folder = saved(name, tmp_path, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    backbone = BACKBONES.create(name, {"weights": str(folder)}, CONTEXT).train()
    x = backbone.entry(torch.rand(2, 3, 32, 32))
    assert torch.equal(backbone(x), backbone(x))


@every_kind
def test_architecture_rebuilds_the_network_without_its_folder(name, tmp_path):
    backbone = BACKBONES.create(name, {"weights": str(saved(name, tmp_path))}, CONTEXT).eval()
    recorded = json.loads(json.dumps(backbone.architecture))
    gone = replace(CONTEXT, load_weights=False, architecture=recorded)
    twin = BACKBONES.create(name, {"weights": str(tmp_path / "gone")}, gone).eval()
    twin.load_state_dict(backbone.state_dict())
    rows = torch.rand(2, 3, 32, 32)
    assert torch.equal(twin(twin.entry(rows)), backbone(backbone.entry(rows)))


def test_normalisation_is_that_of_the_folder(tmp_path):
    folder = saved("dinov2", tmp_path)
    stated = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "crop_size": 224}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    entry = BACKBONES.create("dinov2", {"weights": str(folder)}, CONTEXT).entry
    assert entry.normalisation == Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_number_of_stages_is_that_of_the_folder(tmp_path):
    assert num_stages(Component(name="hf_vit", params={"weights": str(saved("hf_vit", tmp_path))}), 3, 32) == 4


def test_a_folder_of_another_kind_is_refused(tmp_path):
    folder = saved("hf_vit", tmp_path)
    with pytest.raises(InvalidInput, match=r"dinov2.weights=.* is of type 'vit', and 'dinov2' takes 'dinov2'"):
        BACKBONES.create("dinov2", {"weights": str(folder)}, CONTEXT)


def test_sizes_beside_a_folder_are_refused(tmp_path):
    folder = saved("hf_vit", tmp_path)
    with pytest.raises(InvalidInput, match=r"hf_vit.num_layers does not go with pretrained weights"):
        BACKBONES.create("hf_vit", {"weights": str(folder), "num_layers": 3}, CONTEXT)


def test_a_folder_that_lacks_weights_is_refused(tmp_path):
    folder = saved("hf_vit", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(InvalidInput, match=r"the weights in .* lack .*\.2\.attention"):
        BACKBONES.create("hf_vit", {"weights": str(folder)}, CONTEXT)


@pytest.mark.parametrize("weights", ["./gone", "/gone", "some/where/else"])
def test_a_folder_that_is_not_there_is_named(weights):
    with pytest.raises(InvalidInput, match=f"hf_vit.weights='{weights}' is no folder"):
        num_stages(Component(name="hf_vit", params={"weights": weights}), 3)


def test_grey_images_are_refused_by_pretrained_weights(tmp_path):
    folder = saved("hf_vit", tmp_path)
    with pytest.raises(InvalidInput, match="channels=1 does not fit 'hf_vit', whose weights expect 3; set channels: 3"):
        BACKBONES.create("hf_vit", {"weights": str(folder)}, BackboneContext(1, image_size=32))


def test_an_unreachable_hub_names_the_ways_out_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(InvalidInput, match=r"dinov2.weights='facebook/dinov2-small' .*no network.*give its folder"):
        num_stages(Component(name="dinov2"), 3)


def no_network(*arguments, **options):
    raise socket.gaierror("no network")


def cached(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as the hub's client leaves it: files that link to blobs, of which large ones are called by SHA-256."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    root = cache / "models--some--model"
    folder = saved(name, root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    weights = folder / "model.safetensors"
    blob = root / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    blob.parent.mkdir()
    weights.rename(blob)
    weights.symlink_to(blob)
    return blob


def test_what_was_fetched_once_needs_no_hub(monkeypatch, tmp_path):
    cached("hf_vit", tmp_path, monkeypatch)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert BACKBONES.create("hf_vit", {"weights": "some/model"}, CONTEXT).num_stages == 4


def test_a_fetched_file_that_has_changed_is_refused(monkeypatch, tmp_path):
    blob = cached("hf_vit", tmp_path, monkeypatch)
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=f"does not have the SHA-256 {blob.name[:8]}.* that it had; delete"):
        BACKBONES.create("hf_vit", {"weights": "some/model"}, CONTEXT)
