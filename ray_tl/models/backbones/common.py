"""What every family of backbones shares: the registry, the context, and what is known without building."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from ray_tl.config import Component, UserFunction
from ray_tl.errors import InvalidInput
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone
from ray_tl.registry import Registry
from ray_tl.tokens import Vocabulary

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5,) * 3, (0.5,) * 3)
IMAGE_SIZE = 224
MAX_LENGTH = 128


@dataclass(frozen=True)
class BackboneContext:
    """What the system tells a backbone.

    Attributes:
        channels: Of the images, 1 or 3.
        load_weights: Whether to load pretrained weights; not when a checkpoint or bundle follows.
        image_size: Side of the images in pixels; counts for networks with a position embedding.
        architecture: What `StagedBackbone.architecture` was when the network was trained; then no folder or hub is
            asked what the network looks like. `None` where nothing was recorded.
        function: A person's own function that builds it, whatever is registered under its name; of a bundle.
        vocabulary: Of the texts; `None` for images.
        max_length: Tokens of the longest text.
    """

    channels: int = 3
    load_weights: bool = True
    image_size: int = IMAGE_SIZE
    architecture: Mapping[str, object] | None = None
    function: UserFunction | None = None
    vocabulary: Vocabulary | None = None
    max_length: int = MAX_LENGTH

    @property
    def modality(self) -> str:
        """Of the rows that the backbone is to read: `images` or `text`."""
        return "images" if self.vocabulary is None else "text"


BACKBONES: Registry[StagedBackbone] = Registry("backbone")


def build_backbone(backbone: Component, context: BackboneContext) -> StagedBackbone:
    """The backbone that a configuration names.

    Raises:
        InvalidInput: As `build_transfer_model`; if it reads rows of another modality.
    """
    built = BACKBONES.create(backbone.name, backbone.params, context)
    if built.entry.modality != context.modality:
        raise WrongModality(backbone.name, built.entry.modality, context)
    return built


class WrongModality(InvalidInput):
    """A backbone that reads images is given texts, or the other way round.

    Attributes:
        reads: What it does read: `images` or `text`.
    """

    def __init__(self, name: str, reads: str, context: BackboneContext) -> None:
        super().__init__(
            f"backbone {name!r} reads {reads}, and data.modality is {context.modality!r}; choose another of the two."
        )
        self.reads = reads


def dimensions(backbone: Component, context: BackboneContext) -> tuple[tuple[int, ...], int]:
    """Parameters of each stage, and width of the features, of the backbone that a configuration names.

    Reads no weights, and allocates no memory for them.

    Raises:
        InvalidInput: As `build_backbone`.
    """
    return _dimensions(backbone.model_dump_json(), replace(context, load_weights=False))[:2]


def is_pretrained(backbone: Component) -> bool:
    """Whether weights that have learned something are named; not so of a person's own function, which says nothing."""
    weights = BACKBONES.parameters(backbone.name).get("weights")
    return weights is not None and backbone.params.get("weights", weights.default) != "none"


def knows_words(backbone: Component, context: BackboneContext) -> bool:
    """Whether classes can be described in words to the backbone that a configuration names."""
    return _dimensions(backbone.model_dump_json(), replace(context, load_weights=False))[2]


def require_words(backbone: Component, context: BackboneContext) -> None:
    """Have something described, so that a missing text tower or tokenizer is found before a trial needs it.

    Raises:
        InvalidInput: If the backbone knows no words, or its text tower or tokenizer can't be had.
    """
    embed_texts = _on_meta(backbone, context).embed_texts
    if embed_texts is None:
        raise InvalidInput(f"backbone {backbone.name!r} knows no words; choose clip with pretrained weights.")
    embed_texts(["a photo"])


@cache  # every corner of a search space asks
def _dimensions(backbone: str, context: BackboneContext) -> tuple[tuple[int, ...], int, bool]:
    """Stages, width, and whether it knows words, of a backbone that is given as JSON, which can be a key."""
    built = _on_meta(Component.model_validate_json(backbone), context)
    return built.stage_sizes, built.feature_dim, built.embed_texts is not None


def _on_meta(backbone: Component, context: BackboneContext) -> StagedBackbone:
    with torch.device("meta"):
        return build_backbone(backbone, replace(context, load_weights=False))


def forget_sizes() -> None:
    """Depths and widths are asked for anew: a name may mean another backbone now."""
    _dimensions.cache_clear()


def image_entry(context: BackboneContext, normalisation: Normalisation = IMAGENET) -> ImageEntry:
    """The entry of a network of colour images; grey ones are normalised by the mean over the colours."""
    if context.channels != 3:
        mean, std = (sum(values) / 3 for values in (normalisation.mean, normalisation.std))
        normalisation = Normalisation((mean,) * context.channels, (std,) * context.channels)
    return ImageEntry(normalisation)


def mean_pool() -> nn.Module:
    """The mean of each channel, [N, C, H, W] to [N, C]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Transformers reports weights that it has left out, such as a head; here they are meant to be."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
