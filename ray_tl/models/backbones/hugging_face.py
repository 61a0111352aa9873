"""Vision transformers by transformers: ViT and DINOv2. It is imported inside the functions: it takes seconds."""

from torch import nn

from ray_tl.models.backbones.common import BACKBONES, HALF, IMAGENET, BackboneContext
from ray_tl.models.backbones.transformer_images import (
    Family,
    Sizes,
    create,
    fitted_positions,
    recipe_for,
    staged_transformer,
)
from ray_tl.models.backbones.vit import ClassToken, Tokens
from ray_tl.models.stages import StagedBackbone


@BACKBONES.register("hf_vit")
def hf_vit(
    context: BackboneContext,
    *,
    weights: str = "google/vit-base-patch16-224-in21k",
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    patch_size: int | None = None,
) -> StagedBackbone:
    """A ViT by transformers, as many stages as layers and two more; https://arxiv.org/abs/2010.11929.

    The features are those of the class token. Position embeddings are interpolated to the size of the images. No
    dropout, so that a trial is the same on any number of workers.

    Args:
        weights: A folder, a name on the hub, or `none`, for a network of these sizes.
        hidden_size: 384 by default.
        num_layers: 12 by default.
        num_heads: 6 by default; divides `hidden_size`.
        patch_size: In pixels, 16 by default.
    """
    family = Family("hf_vit", "vit", HALF)
    return _staged(family, context, weights, Sizes(hidden_size, num_layers, num_heads, patch_size), 16)


@BACKBONES.register("dinov2")
def dinov2(
    context: BackboneContext,
    *,
    weights: str = "facebook/dinov2-small",
    hidden_size: int | None = None,
    num_layers: int | None = None,
    num_heads: int | None = None,
    patch_size: int | None = None,
) -> StagedBackbone:
    """DINOv2 by transformers, as many stages as layers and two more; Oquab et al., https://arxiv.org/abs/2304.07193.

    The features are those of the class token. Position embeddings are interpolated to the size of the images. No
    stochastic depth, so that a trial is the same on any number of workers.

    Args:
        weights: A folder, a name on the hub, or `none`, for a network of these sizes.
        hidden_size: 384 by default.
        num_layers: 12 by default.
        num_heads: 6 by default; divides `hidden_size`.
        patch_size: In pixels, 14 by default.
    """
    family = Family("dinov2", "dinov2", IMAGENET)
    return _staged(family, context, weights, Sizes(hidden_size, num_layers, num_heads, patch_size), 14)


def _staged(family: Family, context: BackboneContext, weights: str, sizes: Sizes, patch_size: int) -> StagedBackbone:
    from transformers import AutoConfig, AutoModel

    sizes.require_fitting(family.name)
    untrained = AutoConfig.for_model(family.model_type, image_size=context.image_size, **sizes.values(patch_size))
    recipe = recipe_for(family, context, weights, sizes, untrained)
    network = create(AutoModel, recipe, context.load_weights)
    positions = network.get_parameter("embeddings.position_embeddings")
    tokens = Tokens(
        network.get_submodule("embeddings.patch_embeddings.projection"),
        network.get_parameter("embeddings.cls_token"),
        fitted_positions(network.get_submodule("embeddings"), positions, context.image_size),
    )
    pool = nn.Sequential(ClassToken(), network.get_submodule("layernorm"))
    return staged_transformer(tokens, network, pool, recipe.config.hidden_size, recipe, context)
