"""Methods that train features from which the target's inputs can be restored."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, task_loss
from ray_tl.adaptation.numerics import full_precision, require_positive
from ray_tl.adaptation.published import constant
from ray_tl.collectives import sum_over_ranks, world_size
from ray_tl.registry import Published

SIDE = 8
VARIANCE_FLOOR = 1e-5


@full_precision
def pooled_inputs(inputs: Tensor) -> Tensor:
    """What the decoder restores: 64 numbers an example, of mean 0 and variance 1 over the joint batch, [N, 64].

    Images and maps [N, C, H, W] are averaged over channels and pooled to 8 x 8, those that are smaller by repetition.
    Inputs of any other shape, such as vectors [N, D] or tokens [N, T, D], are laid out in a row and pooled to 64. One
    mean and one variance are taken over all 64 and all rows of all ranks, so the loss has one scale for images in
    0..1 and for activations of any size; the variance has the floor that is usual in batch normalisation, and inputs
    that do not vary give 0.

    Args:
        inputs: [N, ...], at least two dimensions; detached.
    """
    pooled = _pooled(inputs.detach())
    count = pooled.numel() * world_size()
    centred = pooled - sum_over_ranks(pooled.sum()) / count
    variance = sum_over_ranks(centred.square().sum()) / count
    return centred * torch.rsqrt(variance + VARIANCE_FLOOR)


def token_counts(tokens: Tensor) -> Tensor:
    """What stands for a text: how many of its tokens fall into each of 64 bins, int [N, 64].

    A token falls into the bin that is the remainder of its number by 64; padding and what is marked as missing into
    none.

    Args:
        tokens: Numbers of tokens, int [N, L]; see `ray_tl.tokens`.
    """
    bins = torch.arange(SIDE * SIDE, device=tokens.device)
    return ((tokens % len(bins))[:, :, None].eq(bins) & (tokens >= 0)[:, :, None]).sum(dim=1)


@full_precision
def reconstruction_loss(restored: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error over all entries of this rank, which DDP averages.

    Args:
        restored: [N, 64], with gradient.
        wanted: [N, 64].
    """
    return F.mse_loss(restored, wanted)


@METHODS.register(
    "drcn",
    ranges={"hidden_width": {"choice": [64, 256, 1024]}},
    published=Published(
        "Ghifary et al., 2016, https://arxiv.org/abs/1607.03516: 0.7 of the classification to 0.3 of the "
        "reconstruction",
        trial={
            "freeze_depth": "everything",
            "optimizer": {"rmsprop": {"lr": 1e-4}},
            "dropout": 0.5,
            "batch_size": 128,
            **constant(reconstruction=0.43),
        },
    ),
    family="alignment",
)
class Drcn(AdaptationMethod):
    """DRCN: features from which the target's inputs can be restored, while the source is classified.

    Ghifary et al., "Deep Reconstruction-Classification Networks for Unsupervised Domain Adaptation", 2016,
    https://arxiv.org/abs/1607.03516: cross-entropy of the source, and the squared error of decoded target inputs; the
    source is not decoded. Departures: both losses are taken in every step, where the paper alternates; a small
    decoder restores an 8 x 8 summary of the inputs (see `pooled_inputs`), where the paper mirrors the network and
    restores every pixel; no noise is added to the inputs. What is restored is what enters the network, so after a
    change of the frozen stages the decoder learns anew; where every stage is frozen the loss moves the decoder alone.

    Args:
        context: Gives the width of the features.
        hidden_width: Width of the decoder's hidden layer, >= 1.
    """

    loss_names = ("task", "reconstruction")

    def __init__(self, context: MethodContext, *, hidden_width: int = 256) -> None:
        super().__init__(context)
        require_positive("drcn.hidden_width", hidden_width, usual=256)
        self.decoder = nn.Sequential(
            nn.Linear(context.feature_dim, hidden_width), nn.ReLU(), nn.Linear(hidden_width, SIDE * SIDE)
        )

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        assert step.target.inputs is not None
        restored = self.decoder(step.target.features)
        inputs = step.target.inputs if step.target.inputs.is_floating_point() else token_counts(step.target.inputs)
        inputs = inputs.to(torch.promote_types(inputs.dtype, restored.dtype))
        return {"task": task_loss(step), "reconstruction": reconstruction_loss(restored, pooled_inputs(inputs))}


def _pooled(inputs: Tensor) -> Tensor:
    if inputs.ndim == 4:
        return F.adaptive_avg_pool2d(inputs.mean(dim=1), SIDE).flatten(1)
    return F.adaptive_avg_pool1d(inputs.flatten(1), SIDE * SIDE)
