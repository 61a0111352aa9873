"""Any network of timm that can be cut into stages exactly. Timm is imported inside the functions: it takes seconds."""

import copy
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ray_tl.errors import InvalidInput, UnknownName
from ray_tl.hub import model_folder
from ray_tl.models.backbones.common import BACKBONES, BackboneContext, image_entry
from ray_tl.models.pretrained import FILE_KINDS, State, file_state, fill
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone
from ray_tl.registry import did_you_mean

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from timm.models.vision_transformer import VisionTransformer

Step = tuple[str, nn.Module]
SERIES = ("blocks", "stages", "layers", "features")  # what timm calls a row of modules that are stages each
WEIGHTS_FILE = "model.safetensors"
OWN = "a function of your own can give the stages: backbones in the search-space file"


@BACKBONES.register("timm")
def timm_model(context: BackboneContext, *, model: str, weights: str = "pretrained") -> StagedBackbone:
    """Any network of timm whose parts follow one another; Wightman, https://github.com/huggingface/pytorch-image-models.

    That the stages give what the network gives is tried with every build, bit for bit. Networks of fixed size are made
    for the size of the images. No dropout and no stochastic depth: a trial is the same on any number of workers.

    Args:
        model: As `timm.list_models()` names it, with or without the tag of its weights: `regnety_040.ra3_in1k`.
        weights: `pretrained` (from the hub, fetched once per machine), `none` or the path of a file.
    """
    import timm

    if weights not in ("pretrained", "none") and not weights.endswith(FILE_KINDS):
        raise InvalidInput(
            f"timm.weights={weights!r} must be 'pretrained', 'none' or the path of a file that ends with "
            f"{', '.join(FILE_KINDS)}."
        )
    if not timm.is_model(model):
        raise UnknownName(f"timm.model={model!r} is not known{_nearest(model)}")
    facts = timm.get_pretrained_cfg(model)
    network = _created(model, facts, context)
    backbone = _staged(model, network, facts, context)
    if context.load_weights and weights != "none":
        state = file_state(_fetched(model, facts) if weights == "pretrained" else weights)
        fill(backbone, network, _renamed(state, network), f"timm {model}")
    return backbone


def _nearest(model: str) -> str:
    import timm

    near = did_you_mean(model, timm.list_models()).split(";")[1]
    return f";{near}; timm.list_models() lists all."


def _created(model: str, facts: "PretrainedCfg | None", context: BackboneContext) -> nn.Module:
    import timm

    create: Callable[..., nn.Module] = timm.create_model
    size = {"img_size": context.image_size} if facts is not None and facts.fixed_input_size else {}
    try:
        network = create(model, num_classes=0, in_chans=context.channels, **size)
    except (AssertionError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidInput(
            f"timm model {model!r} can't be made for images of {context.channels} x {context.image_size} pixels "
            f"({error}); change data.image_size or the model."
        ) from error
    for part in network.modules():
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.0
        if hasattr(part, "drop_prob"):
            part.drop_prob = 0.0  # type: ignore[assignment]
    return network


def _staged(model: str, network: nn.Module, facts: "PretrainedCfg | None", context: BackboneContext) -> StagedBackbone:
    names, stages = zip(*_stages(network), strict=True)
    mean, std = (facts.mean, facts.std) if facts is not None else ((0.5,) * 3, (0.5,) * 3)
    entry = ImageEntry(image_entry(context, Normalisation(tuple(mean), tuple(std))).normalisation, context.image_size)
    backbone = StagedBackbone(stages, names, 0, entry)
    backbone.feature_dim = _agreed_width(model, network, backbone)
    return backbone


def _stages(network: nn.Module) -> list[Step]:
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(network, VisionTransformer):
        return _stages_of_vit(network)
    steps = list(_steps(network))
    begins = [place for place, (name, part) in enumerate(steps) if _num_layers(part) > ("." not in name)]
    first, last = (begins[0], begins[-1]) if begins else (0, 0)
    numbers = [sum(begin <= place for begin in begins) + (place > last) for place in range(len(steps))]
    stages: list[Step] = []
    for number, group in groupby(zip(numbers, steps, strict=True), key=lambda pair: pair[0]):
        parts = [step for _, step in group]
        name = "stem" if number == 0 and first > 0 else "pool" if number > len(begins) else parts[0][0]
        stages.append((name, nn.Sequential(*(part for _, part in parts))))
    return stages


def _steps(network: nn.Module) -> Iterator[Step]:
    """The parts of a network in order; those that a series holds one by one."""
    for name, part in network.named_children():
        if name in SERIES and isinstance(part, nn.Sequential | nn.ModuleList):
            yield from ((f"{name}.{key}", each) for key, each in part.named_children())
        else:
            yield name, part


def _num_layers(part: nn.Module) -> int:
    """Modules with parameters of their own."""
    return sum(any(True for _ in each.parameters(recurse=False)) for each in part.modules())


def _stages_of_vit(network: "VisionTransformer") -> list[Step]:
    """Tokens with class token and positions; blocks; normalisation and pool."""
    blocks = [(f"blocks.{number}", block) for number, block in enumerate(network.blocks)]
    tokens = _without(network, {"blocks", "norm", "fc_norm", "attn_pool", "head", "head_dist"})
    pool = _without(network, {"blocks", "patch_embed", "norm_pre"})
    pool._parameters = {}
    return [("patches", _Tokens(tokens)), *blocks, ("pool", _TokenPool(pool))]


def _without(network: "VisionTransformer", names: set[str]) -> "VisionTransformer":
    """The same network, of whose parts some do nothing."""
    rest = copy.copy(network)
    rest._modules = {
        name: nn.Identity() if name in names and part is not None else part for name, part in network._modules.items()
    }
    return rest


class _Tokens(nn.Module):
    """Images [N, C, H, W] to tokens [N, T, D]; all of a transformer before its blocks."""

    def __init__(self, network: "VisionTransformer") -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.network.forward_features(images)
        return tokens


class _TokenPool(nn.Module):
    """Tokens [N, T, D] to features [N, D]; all of a transformer behind its blocks."""

    def __init__(self, network: "VisionTransformer") -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.network.forward_head(self.network.norm(tokens), pre_logits=True)
        return features


@torch.no_grad()
def _agreed_width(model: str, network: nn.Module, backbone: StagedBackbone) -> int:
    """Width of the features, if the stages give what the network gives."""
    blank = backbone.entry.blank()
    image = torch.linspace(-1, 1, blank.numel(), device=blank.device).view(blank.shape)
    was_training = network.training
    network.eval()
    backbone.eval()
    try:
        expected = network(image)
        found = backbone(image)
    except Exception as error:  # of code that was written for other uses
        raise InvalidInput(
            f"timm model {model!r} can't be cut into stages, or takes no images of {image.shape[-1]} pixels "
            f"({type(error).__name__}: {error}); choose another model or size, or {OWN}."
        ) from error
    finally:
        network.train(was_training)
        backbone.train(was_training)
    same = found.shape == expected.shape and expected.ndim == 2 and (found.is_meta or torch.equal(found, expected))
    if not same:
        raise InvalidInput(
            f"timm model {model!r} can't be cut into stages exactly: its parts in order do not give what it gives; "
            f"choose another model, or {OWN}."
        )
    return expected.shape[1]


def _fetched(model: str, facts: "PretrainedCfg | None") -> str:
    if facts is None or not facts.hf_hub_id:
        raise InvalidInput(f"timm model {model!r} has no weights on the hub; set timm.weights to none or a file.")
    folder = model_folder(facts.hf_hub_id, ["*.json", WEIGHTS_FILE], "timm.weights")
    return str(folder / WEIGHTS_FILE)


def _renamed(state: State, network: nn.Module) -> State:
    """Tensors under the names of today's timm, positions interpolated to the size of the images."""
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    renamed: State = adapt(state, network) if adapt is not None else state
    return renamed
