"""The image tower of CLIP, by transformers, and its text tower where classes are described in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.errors import InvalidInput
from ray_tl.hub import model_folder
from ray_tl.models.backbones.common import BACKBONES, BackboneContext
from ray_tl.models.backbones.transformer_images import (
    NONE,
    Family,
    Recipe,
    Sizes,
    create,
    fitted_positions,
    recipe_for,
    staged_transformer,
)
from ray_tl.models.backbones.vit import ClassToken, Tokens
from ray_tl.models.stages import Normalisation, StagedBackbone

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

OPENAI = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
FILES = ("*.json", "*.safetensors", "pytorch_model.bin", "merges.txt")
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
PATCH_SIZE = 32
CPU = torch.device("cpu")


@BACKBONES.register("clip")
def clip(
    context: BackboneContext,
    *,
    weights: str = "openai/clip-vit-base-patch32",
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    patch_size: int | None = None,
) -> StagedBackbone:
    """CLIP's image tower, as many stages as layers and two more; Radford et al., https://arxiv.org/abs/2103.00020.

    The features are image embeddings in the space of texts, not normalised: with pretrained weights, `zero_shot` is one
    of the first trials. Position embeddings are interpolated to the size of the images. No dropout.

    Args:
        weights: A folder with image tower, text tower and tokenizer, a name on the hub, or `none`, for an image tower
            of these sizes.
        hidden_size: 384 by default.
        num_layers: 12 by default.
        num_heads: 6 by default; divides `hidden_size`.
        patch_size: In pixels, 32 by default.
    """
    from transformers import AutoConfig, CLIPVisionModelWithProjection

    sizes = Sizes(hidden_size, num_layers, num_heads, patch_size)
    sizes.require_fitting("clip")
    values = sizes.values(PATCH_SIZE)
    values |= {"image_size": context.image_size, "projection_dim": values["hidden_size"]}
    untrained = AutoConfig.for_model("clip_vision_model", **values)
    family = Family("clip", "clip", OPENAI, FILES, _image_tower)
    recipe = recipe_for(family, context, weights, sizes, untrained)
    network = create(CLIPVisionModelWithProjection, recipe, context.load_weights)
    backbone = _staged(network, recipe, context)
    if weights != NONE and context.architecture is None:
        backbone.embed_texts = TextTower(weights)
    return backbone


@dataclass(frozen=True)
class TextTower:
    """Texts to what a normalised image embedding is multiplied with to give CLIP's logits.

    Attributes:
        weights: A folder or a name on the hub.
    """

    weights: str

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Texts to [N, D] on the CPU, each of CLIP's temperature in length.

        Raises:
            InvalidInput: If there is no text tower or no tokenizer.
        """
        from transformers import AutoTokenizer, CLIPConfig, CLIPModel

        folder = model_folder(self.weights, FILES, "clip.weights")
        _require_tokenizer(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with torch.device(CPU):
            model = create(CLIPModel, Recipe(CLIPConfig.from_pretrained(folder), OPENAI, folder), load_weights=True)
            tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
            described = model.get_submodule("text_model").eval()(tokens["input_ids"], tokens["attention_mask"])
            embedded = model.get_submodule("text_projection")(described.pooler_output)
        return F.normalize(embedded) * model.get_parameter("logit_scale").exp()


def _image_tower(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """Of the whole of CLIP; that of an image tower has a width of its own, which does not count."""
    tower: PreTrainedConfig = config.vision_config
    tower.projection_dim = config.projection_dim
    return tower


def _require_tokenizer(folder: Path) -> None:
    if not any(all((folder / file).is_file() for file in files) for files in TOKENIZERS):
        raise InvalidInput(
            f"clip.weights: {folder} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt), "
            "without which class names can't be read; copy it there, or leave out what is zero-shot."
        )


def _staged(network: nn.Module, recipe: Recipe, context: BackboneContext) -> StagedBackbone:
    vision = network.get_submodule("vision_model")
    embeddings = vision.get_submodule("embeddings")
    class_token = vision.get_parameter("embeddings.class_embedding").detach()
    positions = vision.get_parameter("embeddings.position_embedding.weight")
    tokens = Tokens(
        embeddings.get_submodule("patch_embedding"),
        nn.Parameter(class_token.view(1, 1, -1).clone()),
        fitted_positions(embeddings, positions[None], context.image_size),
    )
    projection = network.get_submodule("visual_projection")
    pool = nn.Sequential(ClassToken(), vision.get_submodule("post_layernorm"), projection)
    stem = nn.Sequential(tokens, vision.get_submodule("pre_layrnorm"))
    return staged_transformer(stem, vision, pool, recipe.config.projection_dim, recipe, context)
