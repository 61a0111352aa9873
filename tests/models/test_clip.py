"""CLIP's image tower as stages, and its text tower."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoTokenizer, CLIPModel

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BACKBONES, BackboneContext, knows_words, require_words
from tests.tiny_clip import save_tiny_clip, tiny_clip

CONTEXT = BackboneContext(image_size=16)
TEXTS = ["a photo of a cat", "a photo of the red fox", "a dog"]


def clip(folder: str, context: BackboneContext = CONTEXT):
    return BACKBONES.create("clip", {"weights": folder}, context).eval()


@pytest.mark.parametrize("side", [16, 32])
def test_features_are_the_image_embeddings_of_transformers_at_any_size(side):
    backbone = clip(tiny_clip(), BackboneContext(image_size=side))
    model = CLIPModel.from_pretrained(tiny_clip()).eval()
    x = backbone.entry(torch.rand(3, 3, side, side))
    expected = model.visual_projection(model.vision_model(x, interpolate_pos_encoding=True).pooler_output)
    assert_close(backbone(x), expected)


def test_features_and_texts_give_the_logits_of_transformers():
    backbone = clip(tiny_clip())
    model, tokenizer = CLIPModel.from_pretrained(tiny_clip()).eval(), AutoTokenizer.from_pretrained(tiny_clip())
    x = backbone.entry(torch.rand(3, 3, 16, 16))
    tokens = tokenizer(TEXTS, padding=True, return_tensors="pt")
    expected = model(tokens["input_ids"], x, tokens["attention_mask"]).logits_per_image
    assert expected.std() > 1e-3
    assert_close(F.normalize(backbone(x)) @ backbone.embed_texts(TEXTS).T, expected)


def test_architecture_rebuilds_the_image_tower_without_its_folder():
    backbone = clip(tiny_clip())
    recorded = json.loads(json.dumps(backbone.architecture))
    twin = clip("/gone", replace(CONTEXT, load_weights=False, architecture=recorded))
    twin.load_state_dict(backbone.state_dict())
    rows = torch.rand(2, 3, 16, 16)
    assert torch.equal(twin(twin.entry(rows)), backbone(backbone.entry(rows)))
    assert twin.embed_texts is None


def test_texts_are_embedded_while_networks_are_built_without_values():
    with torch.device("meta"):
        backbone = BACKBONES.create("clip", {"weights": tiny_clip()}, replace(CONTEXT, load_weights=False))
        embedded = backbone.embed_texts(TEXTS)
    assert_close(embedded, clip(tiny_clip()).embed_texts(TEXTS), rtol=0, atol=0)


def test_an_untrained_tower_knows_no_words():
    sizes = {"weights": "none", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "patch_size": 8}
    assert not knows_words(Component(name="clip", params=sizes), BackboneContext(image_size=16))
    assert knows_words(Component(name="clip", params={"weights": tiny_clip()}), BackboneContext(image_size=16))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "can't be loaded"),
    ],
)
def test_a_folder_without_what_texts_need_is_refused(change, rule, tmp_path):
    folder = save_tiny_clip(tmp_path)
    change(folder)
    with pytest.raises(InvalidInput, match=rule):
        require_words(Component(name="clip", params={"weights": str(folder)}), BackboneContext(image_size=16))


def test_a_folder_without_a_text_tower_is_refused(tmp_path):
    folder = save_tiny_clip(tmp_path / "whole")
    image_tower = tmp_path / "image"
    shutil.copytree(folder, image_tower)
    CLIPModel.from_pretrained(folder).vision_model.save_pretrained(image_tower)
    with pytest.raises(InvalidInput, match="is of type 'clip_vision_model', and 'clip' takes 'clip'"):
        clip(str(image_tower))
