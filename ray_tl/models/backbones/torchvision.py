"""What torchvision's networks share: where weights come from, and the channels of the first convolution.

Torchvision is imported inside the functions: it takes seconds, which a command line must not pay.
"""

from collections.abc import Callable

from torch import nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones.common import BackboneContext
from ray_tl.models.pretrained import FILE_KINDS, State, file_state, fill, torchvision_state
from ray_tl.models.stages import StagedBackbone

Adapt = Callable[[State], State]


def create_torchvision(name: str, **options: float | bool) -> nn.Module:
    """Torchvision's network of this name with random weights."""
    from torchvision.models import get_model

    network: nn.Module = get_model(name, weights=None, **options)
    return network


def finish_torchvision(
    name: str,
    network: nn.Module,
    backbone: StagedBackbone,
    context: BackboneContext,
    weights: str,
    adapt: Adapt = lambda state: state,
) -> StagedBackbone:
    """Fit a backbone to the channels of the images and load its weights: torchvision's first set, or those of a file.

    Args:
        name: In torchvision.
        network: Of whose parts the backbone is made.
        backbone: With random weights.
        context: Gives the channels.
        weights: `imagenet`, `none` or a path.
        adapt: Makes weights fit the size of the images.
    """
    fit_channels(name, backbone, context, weights)
    if context.load_weights and weights != "none":
        state = torchvision_state(name, _url(name)) if weights == "imagenet" else file_state(weights)
        fill(backbone, network, adapt(state), name)
    return backbone


def fit_channels(name: str, backbone: StagedBackbone, context: BackboneContext, weights: str) -> None:
    """Keep the first input channels of a random first convolution: its scale depends on its output channels alone.

    Raises:
        InvalidInput: If weights can't be of this name, or are those of ImageNet and images have not three channels.
    """
    if weights not in ("imagenet", "none") and not weights.endswith(FILE_KINDS):
        raise InvalidInput(
            f"{name}.weights={weights!r} must be 'imagenet', 'none' or the path of a file "
            f"that ends with {', '.join(FILE_KINDS)}."
        )
    if weights == "imagenet" and context.channels != 3:
        raise InvalidInput(
            f"channels={context.channels} does not fit {name!r}, whose ImageNet weights expect 3; "
            f"set channels: 3 (grey images are repeated), or weights: none."
        )
    first = next(part for part in backbone.modules() if isinstance(part, nn.Conv2d))
    if context.channels != first.in_channels:
        first.in_channels = context.channels
        first.weight = nn.Parameter(first.weight.detach()[:, : context.channels].clone())


def _url(name: str) -> str:
    """Of the first set: the one that the literature on adaptation starts from."""
    from torchvision.models import get_model_weights

    return get_model_weights(name)["IMAGENET1K_V1"].url
