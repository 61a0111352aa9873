"""Which filters of a pretrained network a task rests on: the attention of DELTA.

Li et al., "DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks", 2019,
https://arxiv.org/abs/1901.09229, section 3.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.closed_form.linear import logistic_regression, standard_score
from ray_tl.models.domain_norm import set_domains
from ray_tl.models.stages import StagedBackbone
from ray_tl.randomness import generator

NUM_EXAMPLES = 256  # half of them for the head, half to be looked at: a few seconds on a processor
ROWS_AT_ONCE = 32
INVERSE_PENALTY = 1.0  # of the head: scikit-learn's default


def filters_last(maps: Tensor) -> Tensor:
    """Rows [N, D] and tokens [N, T, D] as they are, maps [N, D, H, W] as [N, H, W, D]."""
    return maps if maps.ndim < 4 else maps.movedim(1, -1)


def loss_without_filters(maps: Tensor, gradients: Tensor) -> Tensor:
    """By how much each example's loss would rise if a filter gave 0 everywhere, to first order, [N, D].

    Minus the product of map and gradient, summed over positions: Molchanov et al., "Pruning Convolutional Neural
    Networks for Resource Efficient Inference", 2017, https://arxiv.org/abs/1611.06440, section 2.2. Exact where the
    loss is linear in the filter.

    Args:
        maps: Of a stage, [N, ...]; of rows [N, D], maps [N, D, H, W] and tokens [N, T, D] the filters are D.
        gradients: Of each example's own loss by its map, of the same shape.
    """
    product = filters_last(-maps.double() * gradients.double())
    return product.reshape(len(product), -1, product.shape[-1]).sum(dim=1)


def filter_attention(loss_without: Tensor) -> Tensor:
    """DELTA's attention of each filter, [D], of mean 1: the softmax over the filters, as a mean over the examples.

    Departure: it is multiplied by D, so that the weight of the regulariser means the same with attention and without.

    Args:
        loss_without: By how much each example's loss rises without a filter, [N, D].
    """
    return loss_without.softmax(dim=1).mean(dim=0) * loss_without.shape[1]


def attention_of_stages(
    backbone: StagedBackbone, rows: Tensor, labels: Tensor, device: torch.device
) -> tuple[Tensor, ...]:
    """`filter_attention` of the output of each stage, float64 [D_stage] each, for the backbone as it is.

    The head is that of the paper's feature extraction (L2-FE), fitted to some of the examples; others are looked at.
    Departure: the rise of the loss is that of `loss_without_filters`, so that one backward pass serves all filters; the
    paper evaluates the network once for each.

    Args:
        backbone: Left as it is.
        rows: Labelled examples as they enter the network, [N, ...], N >= 2.
        labels: [N], int64.
        device: Where the backbone is.
    """
    chosen = torch.randperm(len(rows), generator=generator(0, "filter attention"))[:NUM_EXAMPLES]
    for_head, others = chosen[::2], chosen[1::2]
    present = labels[for_head].unique()
    others = others[torch.isin(labels[others], present)]
    was_training = backbone.training
    set_domains(backbone.eval(), ("source",))
    try:
        if len(present) < 2 or len(others) == 0:  # nothing to tell apart: all filters weigh the same
            maps = _maps(backbone, rows[:1].to(device))
            return tuple(torch.ones(filters_last(each).shape[-1], dtype=torch.float64) for each in maps)
        head = _head(backbone, rows[for_head], torch.searchsorted(present, labels[for_head]), device)
        numbers = torch.searchsorted(present, labels[others])
        batches = zip(rows[others].split(ROWS_AT_ONCE), numbers.split(ROWS_AT_ONCE), strict=True)
        found = [_losses_without(backbone, head, x.to(device), y.to(device)) for x, y in batches]
    finally:
        backbone.train(was_training)
    return tuple(filter_attention(torch.cat(of_stage)) for of_stage in zip(*found, strict=True))


def _head(backbone: StagedBackbone, rows: Tensor, labels: Tensor, device: torch.device) -> nn.Linear:
    """Logistic regression on features [N, D] and labels [N] in 0..C-1, each of them there."""
    with torch.no_grad():
        features = torch.cat([backbone(backbone.entry(part.to(device))) for part in rows.split(ROWS_AT_ONCE)])
    wide = features.double().cpu().numpy()
    score = standard_score(wide)
    state = score.fold(*logistic_regression(score.apply(wide), labels.numpy(), INVERSE_PENALTY))
    weight, bias = torch.as_tensor(state["weight"]), torch.as_tensor(state["bias"])
    head = nn.Linear(weight.shape[1], weight.shape[0], dtype=features.dtype, device=device)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return head


def _losses_without(backbone: StagedBackbone, head: nn.Linear, rows: Tensor, labels: Tensor) -> list[Tensor]:
    """`loss_without_filters` of each stage, on the CPU."""
    maps = _maps(backbone, rows)
    loss = F.cross_entropy(head(maps[-1]), labels, reduction="sum")  # the gradient by a row is that of its own loss
    return [
        loss_without_filters(each.detach(), gradient).cpu()
        for each, gradient in zip(maps, torch.autograd.grad(loss, maps), strict=True)
    ]


def _maps(backbone: StagedBackbone, rows: Tensor) -> list[Tensor]:
    """Output of each stage, with a graph from the first one on."""
    maps = [backbone.stages[0](backbone.entry(rows)).detach().requires_grad_()]
    for stage in backbone.stages[1:]:
        maps.append(stage(maps[-1]))
    return maps
