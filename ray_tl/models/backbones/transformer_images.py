"""What transformers' networks of images share: where configuration and weights come from, and their stages.

Transformers is imported inside the functions: it takes seconds, which a command line must not pay.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from ray_tl.errors import InvalidInput
from ray_tl.hub import model_folder
from ray_tl.models.backbones.common import BackboneContext, image_entry, quiet_transformers
from ray_tl.models.backbones.vit import require_whole_patches
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone

if TYPE_CHECKING:
    from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout", "drop_path_rate")
PREPROCESSOR = "preprocessor_config.json"
NONE = "none"
FILES = ("*.json", "*.safetensors")
HIDDEN_SIZE, NUM_LAYERS, NUM_HEADS, MLP_RATIO = 384, 12, 6, 4  # ViT-S


@dataclass(frozen=True)
class Sizes:
    """Of a network that is made from parameters alone; `None` where none was stated."""

    hidden_size: int | None
    num_layers: int | None
    num_heads: int | None
    patch_size: int | None

    def values(self, patch_size: int) -> dict[str, int]:
        """In the words of transformers; small where nothing was stated."""
        hidden = HIDDEN_SIZE if self.hidden_size is None else self.hidden_size
        return {
            "hidden_size": hidden,
            "intermediate_size": MLP_RATIO * hidden,
            "num_hidden_layers": NUM_LAYERS if self.num_layers is None else self.num_layers,
            "num_attention_heads": NUM_HEADS if self.num_heads is None else self.num_heads,
            "patch_size": patch_size if self.patch_size is None else self.patch_size,
        }

    def require_fitting(self, name: str) -> None:
        """Raise `InvalidInput` if they don't make a network."""
        problems = [
            f"{name}.{key}={value} is too small; choose 1 or more." for key, value in self._stated() if value < 1
        ]
        values = self.values(1)
        hidden, heads = values["hidden_size"], values["num_attention_heads"]
        if not problems and hidden % heads:
            problems.append(f"{name}.hidden_size={hidden} must be a multiple of num_heads={heads}; change one of them.")
        if problems:
            raise InvalidInput(" ".join(problems))

    def require_none(self, name: str) -> None:
        """Raise `InvalidInput` if one is stated beside a folder, which has sizes of its own."""
        if stated := [key for key, _ in self._stated()]:
            raise InvalidInput(
                f"{name}.{stated[0]} does not go with pretrained weights, whose config.json says it; "
                f"leave out {', '.join(stated)}, or set weights: none."
            )

    def _stated(self) -> list[tuple[str, int]]:
        return [(key, value) for key, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Family:
    """What sets one family apart from another.

    Attributes:
        name: Of the backbone.
        model_type: In `config.json`.
        normalisation: Where a folder states none.
        files: What is fetched from the hub, as patterns.
        part: Of the configuration in a folder, what describes the network.
    """

    name: str
    model_type: str
    normalisation: Normalisation
    files: tuple[str, ...] = FILES
    part: "Callable[[PreTrainedConfig], PreTrainedConfig]" = lambda config: config


@dataclass(frozen=True)
class Recipe:
    """What must be known of a network before it is built.

    Attributes:
        config: Of the architecture, in the words of transformers; without dropout, and fitted to the images.
        normalisation: Of the images.
        folder: That holds the weights; `None` for random ones.
    """

    config: "PreTrainedConfig"
    normalisation: Normalisation
    folder: Path | None

    @property
    def architecture(self) -> dict[str, object]:
        """As JSON values, for `StagedBackbone.architecture`."""
        config: dict[str, object] = json.loads(self.config.to_json_string(use_diff=False))
        return {"config": config, "mean": list(self.normalisation.mean), "std": list(self.normalisation.std)}


def recipe_for(
    family: Family,
    context: BackboneContext,
    weights: str,
    sizes: Sizes,
    untrained: "PreTrainedConfig",
) -> Recipe:
    """What a bundle has recorded, what a folder says, or what sizes give.

    Args:
        family: Of the network.
        context: Of the backbone.
        weights: A folder, a name on the hub, or `none`.
        sizes: As a person stated them.
        untrained: What they give.

    Raises:
        InvalidInput: If sizes are stated beside a folder, the folder holds something else, or images don't fit.
    """
    if context.architecture is not None:
        recipe = _recorded(context.architecture)
    elif weights == NONE:
        recipe = Recipe(untrained, family.normalisation, None)
    else:
        sizes.require_none(family.name)
        recipe = _found(family, weights)
    _fit_images(family.name, recipe.config, context, is_trained=weights != NONE)
    return recipe


def create(kind: "type[AutoModel] | type[PreTrainedModel]", recipe: Recipe, load_weights: bool) -> "PreTrainedModel":
    """The whole network, with the folder's weights or random ones.

    Raises:
        InvalidInput: If the folder lacks weights that count.
    """
    if not load_weights or recipe.folder is None:
        build = kind._from_config if hasattr(kind, "_from_config") else kind.from_config
        return build(recipe.config)
    try:
        with quiet_transformers():
            loaded = kind.from_pretrained(
                recipe.folder,
                config=recipe.config,
                dtype=torch.get_default_dtype(),
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(f"the weights in {recipe.folder} can't be loaded ({reason}); fetch them again.") from error
    network, report = cast("tuple[PreTrainedModel, dict[str, set]]", loaded)
    lacking = sorted({*report["missing_keys"], *report["mismatched_keys"]}, key=str)
    if lacking := [key for key in lacking if not str(key).startswith("pooler.")]:
        raise InvalidInput(f"the weights in {recipe.folder} lack {lacking[0]}; name a folder that holds all of them.")
    return network


@torch.no_grad()
def fitted_positions(embeddings: nn.Module, positions: Tensor, image_size: int) -> nn.Parameter:
    """Position embeddings [1, T, D] for square images of this size, by the network's own interpolation."""
    own = cast("_Interpolating", embeddings)
    patch = own.patch_size
    side = image_size // (patch if isinstance(patch, int) else patch[0])
    tokens = positions.new_empty(1, 1 + side * side, positions.shape[-1])
    return nn.Parameter(own.interpolate_pos_encoding(tokens, image_size, image_size).detach().clone())


class _Interpolating(Protocol):
    """What transformers' embeddings of images can do."""

    patch_size: int | tuple[int, int]

    def interpolate_pos_encoding(self, embeddings: Tensor, height: int, width: int) -> Tensor: ...


def staged_transformer(
    tokens: nn.Module,
    network: nn.Module,
    pool: nn.Module,
    feature_dim: int,
    recipe: Recipe,
    context: BackboneContext,
) -> StagedBackbone:
    """Tokens, the blocks of a network and a pool as stages."""
    blocks = next(part for part in network.modules() if isinstance(part, nn.ModuleList))
    names = ["patches", *(f"block{number}" for number in range(1, len(blocks) + 1)), "pool"]
    entry = ImageEntry(image_entry(context, recipe.normalisation).normalisation, context.image_size)
    stages = [tokens, *(Block(block) for block in blocks), pool]
    return StagedBackbone(stages, names, feature_dim, entry, recipe.architecture)


class Block(nn.Module):
    """A layer of transformers over all tokens, [N, T, D] to the same shape."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        output = self.layer(tokens, None)
        return output[0] if isinstance(output, tuple) else output  # some versions give attentions, too


def _recorded(architecture: Mapping[str, object]) -> Recipe:
    from transformers import AutoConfig

    recorded = _Architecture.model_validate(architecture)
    return Recipe(AutoConfig.for_model(**recorded.config), Normalisation(recorded.mean, recorded.std), None)


def _found(family: Family, weights: str) -> Recipe:
    from transformers import AutoConfig

    field = f"{family.name}.weights"
    folder = model_folder(weights, family.files, field)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"{field}={weights!r} holds no network ({reason}); name another folder.") from error
    if config.model_type != family.model_type:
        raise InvalidInput(
            f"{field}={weights!r} is of type {config.model_type!r}, and {family.name!r} takes {family.model_type!r}; "
            "name another folder or backbone."
        )
    file = folder / PREPROCESSOR
    stated = _Stated.model_validate_json(file.read_bytes()) if file.is_file() else _Stated()
    return Recipe(family.part(config), stated.normalisation or family.normalisation, folder)


def _fit_images(name: str, config: "PreTrainedConfig", context: BackboneContext, is_trained: bool) -> None:
    """Take dropout out of a configuration, and fit it to the images as far as weights allow."""
    for key in DROPOUTS:
        if hasattr(config, key):
            setattr(config, key, 0.0)
    require_whole_patches(name, context.image_size, config.patch_size)
    if not is_trained:
        config.num_channels = context.channels
    if config.num_channels != context.channels:
        raise InvalidInput(
            f"channels={context.channels} does not fit {name!r}, whose weights expect {config.num_channels}; "
            f"set channels: {config.num_channels} (grey images are repeated), or weights: none."
        )


class _Architecture(BaseModel):
    """`Recipe.architecture`, read again."""

    config: dict[str, Any]  # of transformers, which names its keys
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Stated(BaseModel):
    """What counts of a `preprocessor_config.json`."""

    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None

    @property
    def normalisation(self) -> Normalisation | None:
        if self.image_mean is None or self.image_std is None:
            return None
        return Normalisation(self.image_mean, self.image_std)
