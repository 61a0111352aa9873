"""Methods that adapt the layers of batch normalisation, and little else."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ray_tl.adaptation.confidence import mean_entropy
from ray_tl.adaptation.method import METHODS, AdaptationMethod, MethodContext, StepOutputs, View, task_loss
from ray_tl.adaptation.numerics import require_below_one
from ray_tl.adaptation.published import LIKE_CDAN, constant
from ray_tl.registry import Published

Layer = TypeVar("Layer", bound=nn.Module)


@torch.no_grad()
def set_statistics(model: nn.Module, batches: Iterable[Tensor], start: int) -> None:
    """Set the running statistics of all batch normalisation that trains to the mean over these batches.

    Layers of frozen stages, and those that no batch reaches, keep theirs. On several ranks, with shares of the same
    joint batches, the statistics are those of one process, if the layers are `DistributedBatchNorm`. The model is left
    in evaluation mode.

    Args:
        model: Gives features and logits for inputs and the stage at which they enter.
        batches: Inputs; none leaves the statistics as they are.
        start: Stage at which they enter.
    """
    norms = [norm for norm in _trained(model, (_BatchNorm,)) if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for number, batch in enumerate(batches):
        for norm in norms:
            if number == 0 and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()  # the first batch replaces what was there
            norm.momentum = None  # a mean over all batches, not a moving one
            norm.train()
        model(batch, start)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@METHODS.register(
    "adabn",
    published=Published(
        "Li et al., 2016, https://arxiv.org/abs/1603.04779, algorithm 1, which has no parameter; trained as the "
        "source model of CDAN",
        trial=LIKE_CDAN,
    ),
    family="alignment",
)
class AdaBN(AdaptationMethod):
    """AdaBN: training on the source, then the statistics of batch normalisation of the target.

    Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", 2016, https://arxiv.org/abs/1603.04779,
    algorithm 1. Departures: the source's hold-out is evaluated with the target's statistics too, since one network is
    served, unless `domain_norm` is `separate`; the statistics are a mean over batches; normalisation in frozen stages
    keeps its own, so freeze few.
    """

    needs = ("source",)
    sets_statistics = True
    loss_names = ("task",)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        return {"task": task_loss(step)}

    def before_evaluation(self, model: nn.Module, target: Iterable[Tensor], start: int) -> None:
        set_statistics(model, target, start)


@METHODS.register(
    "tent",
    ranges={"start": {"uniform": [0.3, 0.9]}},
    published=Published(
        "Wang et al., 2021, https://arxiv.org/abs/2006.10726, small images; when it begins is ours",
        params={"start": 0.7},
        trial={
            "freeze_depth": "everything",
            "optimizer": {"adam": {"lr": 1e-3}},
            "batch_size": 200,
            **constant(domain=1.0),
        },
    ),
    family="confidence",
)
class Tent(AdaptationMethod):
    """TENT: from `start` on, the scales and shifts of normalisation minimise the entropy on the target, without source.

    Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", 2021, https://arxiv.org/abs/2006.10726,
    sec. 3. Before `start` the network learns the source; after it, no source row is loaded and nothing else than
    normalisation's affine parameters changes. Departures: several passes over the target before it is served, and
    statistics of the whole target, where the paper takes those of the test batch. Normalisation in frozen stages is
    left alone: with all of it frozen nothing adapts, and the doctor says so.

    Args:
        context: Not used.
        start: Progress at which adaptation begins, at least 0 and below 1.
    """

    sets_statistics = True
    loss_names = ("task", "domain")

    def __init__(self, context: MethodContext, *, start: float = 0.7) -> None:
        super().__init__(context)
        require_below_one("tent.start", start, usual=0.7)
        self.start = start

    def needs_at(self, progress: float) -> tuple[View, ...]:
        return ("source",) if progress < self.start else ("target",)

    def idle_losses(self, progress: float) -> tuple[str, ...]:
        return ("domain",) if progress < self.start else ("task",)

    def losses(self, step: StepOutputs) -> dict[str, Tensor]:
        # A loss that does not count yet, or any more, is 0 with gradients: DDP waits for one of every parameter.
        if step.progress < self.start:
            return {"task": task_loss(step), "domain": 0 * step.source.logits.sum()}
        return {"task": 0 * step.target.logits.sum(), "domain": mean_entropy(step.target.logits)}

    def before_step(self, model: nn.Module, progress: float) -> None:
        if progress < self.start:
            return
        norms: list[nn.Module] = _trained(model, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))
        kept = {id(value) for norm in norms for value in norm.parameters()}
        for value in model.parameters():
            if id(value) not in kept:
                value.grad = None

    def before_evaluation(self, model: nn.Module, target: Iterable[Tensor], start: int) -> None:
        set_statistics(model, target, start)


def _trained(model: nn.Module, kinds: tuple[type[Layer], ...]) -> list[Layer]:
    """The layers of these kinds that are in training mode when the model is: not those of frozen stages."""
    was_training = model.training
    model.train()
    found = [part for part in model.modules() if isinstance(part, kinds) and part.training]
    model.train(was_training)
    return found
