"""Inception, by torchvision."""

from torch import nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones.common import BACKBONES, HALF, BackboneContext, image_entry, mean_pool
from ray_tl.models.backbones.torchvision import create_torchvision, finish_torchvision
from ray_tl.models.stages import ImageEntry, StagedBackbone

SMALLEST_SIDE = 75


@BACKBONES.register("inception_v3")
def inception_v3(context: BackboneContext, *, weights: str = "imagenet") -> StagedBackbone:
    """Inception v3 in six stages, 21.8 million parameters; Szegedy et al., 2015, https://arxiv.org/abs/1512.00567.

    The auxiliary branch and the dropout before the output layer are left out.

    Args:
        weights: `imagenet` (torchvision, 3 channels, fetched once per machine), `none` or the path of a file.
    """
    if context.image_size < SMALLEST_SIDE:
        raise InvalidInput(
            f"data.image_size={context.image_size} is too small for 'inception_v3'; choose {SMALLEST_SIDE} or more."
        )
    network = create_torchvision("inception_v3", aux_logits=False, init_weights=True)
    pick = network.get_submodule
    stages = [
        nn.Sequential(*(pick(part) for part in ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1"])),
        nn.Sequential(*(pick(part) for part in ["Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"])),
        nn.Sequential(*(pick(f"Mixed_5{letter}") for letter in "bcd")),
        nn.Sequential(*(pick(f"Mixed_6{letter}") for letter in "abcde")),
        nn.Sequential(*(pick(f"Mixed_7{letter}") for letter in "abc")),
        mean_pool(),
    ]
    # Its weights expect this normalisation: torchvision's own transform of ImageNet's comes to the same.
    entry = ImageEntry(image_entry(context, HALF).normalisation, SMALLEST_SIDE)
    output = pick("fc")
    assert isinstance(output, nn.Linear)
    names = ["stem1", "stem2", "mixed5", "mixed6", "mixed7", "pool"]
    backbone = StagedBackbone(stages, names, output.in_features, entry)
    return finish_torchvision("inception_v3", network, backbone, context, weights)
