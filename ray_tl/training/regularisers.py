"""What is added to the losses so that fine-tuning keeps of the pretrained network what transfers.

All of them are functions of the joint batch: on several ranks their gradients, averaged by DDP, are those of one
process. Only parameters that train count. The optimiser's weight decay comes on top; 0 leaves it to these.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ray_tl.adaptation.numerics import full_precision
from ray_tl.collectives import gather_rows
from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.models.parameter_efficient import ALL_WEIGHTS
from ray_tl.models.stages import StagedBackbone
from ray_tl.models.transfer_model import TransferModel
from ray_tl.registry import Registry
from ray_tl.training.filter_attention import attention_of_stages, filters_last
from ray_tl.training.precision import widened

REGULARISER = "regulariser"  # its name among the losses

Activations = Mapping[int, tuple[Tensor, Tensor]]


def distance_to_start(parameters: Iterable[Tensor], start: Iterable[Tensor]) -> Tensor:
    """Half the squared Euclidean distance of parameters to what they were, summed over all of them.

    Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", 2018,
    https://arxiv.org/abs/1802.01483, section 3, L2-SP: 1/2 ||w_S - w_S0||^2, the first term without its weight.

    Args:
        parameters: Of any shapes; gradients flow.
        start: Of the same shapes.
    """
    return _total((now - then).square().sum() / 2 for now, then in zip(parameters, start, strict=True))


def squared_length(parameters: Iterable[Tensor]) -> Tensor:
    """Half the squared Euclidean length of parameters; the second term of L2-SP without its weight, plain L2."""
    return _total(value.square().sum() / 2 for value in parameters)


@full_precision
def feature_map_distance(maps: Tensor, reference: Tensor, *, attention: Tensor | None = None) -> Tensor:
    """Half the squared distance of feature maps to those of the source network: summed over filters, mean over rows.

    Li et al., "DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks", 2019,
    https://arxiv.org/abs/1901.09229, section 3: sum_j W_j ||FM_j(w, x) - FM_j(w*, x)||^2. As in the authors' code the
    square is a mean over positions; of a text, over its tokens, since padding, which is 0 all through, is none. A mean
    over rows: DDP's average is that of the joint batch.

    Args:
        maps: [N, ...]; of rows [N, D], maps [N, D, H, W] and tokens [N, T, D] the filters are D.
        reference: Of the same shape; no gradient flows.
        attention: W, [D]; `None` for 1 each, the paper's DELTA without attention.
    """
    squares = filters_last((maps - reference.detach()).square())
    if attention is not None:
        squares = squares * attention
    return (squares.sum(dim=tuple(range(1, squares.ndim))) / _num_positions(reference)).mean() / 2


@full_precision
def spectral_shrinkage(features: Tensor, *, num_values: int) -> Tensor:
    """Sum of the squares of the smallest singular values of the joint batch's features.

    Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer
    Learning" (BSS), 2019, https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html,
    L_bss = sum_(i <= k) sigma_-i^2 without its weight, sigma_-i the i-th smallest. Where the batch does not fill a
    direction, value and gradient are 0.

    Args:
        features: [N, D] on each of W ranks, with gradient; the values are those of the joined [W * N, D].
        num_values: The paper's k, 1 to min(W * N, D).

    Raises:
        InvalidInput: If the batch has fewer singular values.
    """
    joint = gather_rows(features)
    most = min(joint.shape)
    if not 1 <= num_values <= most:
        raise InvalidInput(
            f"bss.num_values={num_values} does not fit a batch of {joint.shape[0]} rows of {joint.shape[1]} features, "
            f"which has {most} singular values; choose 1..{most}, 1 is usual."
        )
    return torch.linalg.svdvals(joint)[-num_values:].square().sum()


@dataclass(frozen=True)
class Pass:
    """What one pass of the joint views through the network left behind.

    Attributes:
        features: That methods and head see, [N, D] over all views.
        stages: Input and output by number of the stage, of those that ran; empty unless a regulariser watches them.
    """

    features: Tensor
    stages: Activations


class Regulariser(nn.Module):
    """A loss of the network itself, of weight 1: its parameters are weights already.

    Attributes:
        watches_stages: Whether it looks at what goes into and comes out of the stages.
        holds_weights: Whether it pulls the stages' own weights, which must train then.
        copies_backbone: Whether it keeps one more copy of the backbone in memory.
        examines: Whether it wants to see labelled examples before the trial begins.
    """

    watches_stages = False
    holds_weights = False
    copies_backbone = False
    examines = False

    def attach(self, model: TransferModel) -> None:
        """Called once, with the network as it is at the start of the trial, also of one that is resumed.

        Raises:
            InvalidInput: If a parameter does not fit the network.
        """

    def examine(self, model: TransferModel, rows: Tensor, labels: Tensor, device: torch.device) -> None:
        """Called once after `attach`, if it examines, on every rank with the same examples.

        Args:
            model: As it is at the start of the trial, on the device.
            rows: Labelled source examples as they enter the network, [N, ...].
            labels: [N], int64.
            device: Where steps run.
        """

    def loss(self, model: TransferModel, passed: Pass) -> Tensor:
        """A scalar, with gradient wherever something trains."""
        raise NotImplementedError


REGULARISERS: Registry[Regulariser | None] = Registry("regulariser")


@REGULARISERS.register("none")
def no_regulariser() -> None:
    """Nothing beside the optimiser's weight decay."""
    return


@REGULARISERS.register("l2_sp", ranges={"alpha": {"log_uniform": [1e-4, 1.0]}, "beta": {"log_uniform": [1e-4, 1e-1]}})
class L2SP(Regulariser):
    """L2-SP: weights of the backbone stay near those they started from, those of new layers near zero.

    Li et al., 2018, https://arxiv.org/abs/1802.01483: alpha / 2 ||w_S - w_S0||^2 + beta / 2 ||w_new||^2. The start is
    the network at the start of the trial. It is built again when a trial is resumed, so checkpoints don't grow; in
    memory it takes one more copy of the backbone.

    Args:
        alpha: Weight of the distance of the backbone's parameters to their start, at least 0.
        beta: Weight of the squared length of taps, adaptor and head, at least 0.
    """

    holds_weights = True
    copies_backbone = True
    start: "Start"

    def __init__(self, *, alpha: float = 0.1, beta: float = 0.01) -> None:
        super().__init__()
        _require_weight("l2_sp.alpha", alpha)
        _require_weight("l2_sp.beta", beta)
        self.alpha, self.beta = alpha, beta

    def attach(self, model: TransferModel) -> None:
        self.start = Start(model.backbone)

    def loss(self, model: TransferModel, passed: Pass) -> Tensor:
        start = self.start.tensors()
        trained = {name: value for name, value in model.backbone.named_parameters() if value.requires_grad}
        moved = distance_to_start(trained.values(), (start[name] for name in trained))
        return self.alpha * moved + self.beta * squared_length(_new_parameters(model))


@REGULARISERS.register("delta", ranges={"alpha": {"log_uniform": [1e-4, 1.0]}, "beta": {"log_uniform": [1e-4, 1e-1]}})
class Delta(Regulariser):
    """DELTA: stages that train give feature maps like those of the network they started from, where it matters.

    Li et al., 2019, https://arxiv.org/abs/1901.09229: alpha times `feature_map_distance`, summed over the stages from
    the first that trains on, plus beta / 2 ||w_new||^2. Which filters matter, its attention, is found once, when the
    trial begins; see `attention_of_stages` for departures. Departure: the rows are those of all views, as no label is
    used. The network of the start computes in evaluation mode, as in the authors' code: one more forward pass, and one
    more copy of the backbone in memory. Both are found again on a resume, so checkpoints don't grow.

    Args:
        alpha: Weight of the distance of the feature maps, at least 0.
        beta: Weight of the squared length of taps, adaptor and head, at least 0.
        attention: Whether filters weigh as much as the source's classes need them; else all the same.
    """

    watches_stages = True
    copies_backbone = True
    start: "Start"

    def __init__(self, *, alpha: float = 0.01, beta: float = 0.01, attention: bool = True) -> None:
        super().__init__()
        _require_weight("delta.alpha", alpha)
        _require_weight("delta.beta", beta)
        self.alpha, self.beta, self.examines = alpha, beta, attention
        self._attention: tuple[Tensor, ...] = ()

    def attach(self, model: TransferModel) -> None:
        self.start = Start(model.backbone)

    def examine(self, model: TransferModel, rows: Tensor, labels: Tensor, device: torch.device) -> None:
        found = attention_of_stages(model.backbone, rows, labels, device)
        self._attention = tuple(each.to(next(model.backbone.parameters())) for each in found)

    def loss(self, model: TransferModel, passed: Pass) -> Tensor:
        head = self.beta * squared_length(_new_parameters(model))
        moving = [number for number in passed.stages if _trains(model.backbone.stages[number])]
        if not moving:
            return head
        first = min(moving)
        reference = self._maps(model.backbone, passed.stages[first][0].detach(), first)
        distances = (
            feature_map_distance(passed.stages[number][1], maps, attention=self._attention_of(number))
            for number, maps in reference.items()
        )
        return self.alpha * _total(distances) + head

    def _attention_of(self, number: int) -> Tensor | None:
        return self._attention[number] if self._attention else None

    @torch.no_grad()
    def _maps(self, backbone: StagedBackbone, x: Tensor, first: int) -> dict[int, Tensor]:
        """Outputs of the stages from `first` on, as they were at the start; before them nothing has changed."""
        was_training = backbone.training
        backbone.eval()
        maps = {}
        for number in range(first, backbone.num_stages):
            x = functional_call(backbone.stages[number], self.start.tensors(f"stages.{number}."), (x,))
            maps[number] = x
        backbone.train(was_training)
        return maps


@REGULARISERS.register("bss", ranges={"eta": {"log_uniform": [1e-4, 1e-1]}, "num_values": {"int": [1, 4]}})
class BSS(Regulariser):
    """BSS: the weakest directions of the features, which transfer badly, are suppressed.

    Chen et al., 2019; see `spectral_shrinkage`. Departure: the batch is that of all views, as no label is used.

    Args:
        eta: Weight, at least 0.
        num_values: The paper's k: singular values that are suppressed, from 1 to the smaller of batch and width.
    """

    def __init__(self, *, eta: float = 1e-3, num_values: int = 1) -> None:
        super().__init__()
        _require_weight("bss.eta", eta)
        if num_values < 1:
            raise InvalidInput(f"bss.num_values={num_values} suppresses nothing; choose 1 or more, 1 is usual.")
        self.eta, self.num_values = eta, num_values

    def attach(self, model: TransferModel) -> None:
        if self.num_values > model.feature_dim:
            raise InvalidInput(
                f"bss.num_values={self.num_values} is more than the {model.feature_dim} features have directions; "
                f"choose 1..{model.feature_dim}, 1 is usual."
            )

    def loss(self, model: TransferModel, passed: Pass) -> Tensor:
        return self.eta * spectral_shrinkage(passed.features, num_values=self.num_values)


class Both(Regulariser):
    """The sum of two regularisers."""

    def __init__(self, first: Regulariser, second: Regulariser) -> None:
        super().__init__()
        self.parts = nn.ModuleList([first, second])
        self.watches_stages = first.watches_stages or second.watches_stages
        self.holds_weights = first.holds_weights or second.holds_weights
        self.copies_backbone = first.copies_backbone or second.copies_backbone
        self.examines = first.examines or second.examines

    def attach(self, model: TransferModel) -> None:
        for part in self._regularisers():
            part.attach(model)

    def examine(self, model: TransferModel, rows: Tensor, labels: Tensor, device: torch.device) -> None:
        for part in self._regularisers():
            if part.examines:
                part.examine(model, rows, labels, device)

    def loss(self, model: TransferModel, passed: Pass) -> Tensor:
        return _total(part.loss(model, passed) for part in self._regularisers())

    def _regularisers(self) -> Iterator[Regulariser]:
        for part in self.parts:
            assert isinstance(part, Regulariser)
            yield part


@REGULARISERS.register(
    "l2_sp_bss",
    ranges={
        "alpha": {"log_uniform": [1e-4, 1.0]},
        "beta": {"log_uniform": [1e-4, 1e-1]},
        "eta": {"log_uniform": [1e-4, 1e-1]},
    },
)
def l2_sp_bss(*, alpha: float = 0.1, beta: float = 0.01, eta: float = 1e-3, num_values: int = 1) -> Both:
    """L2-SP and BSS together, as in table 1 of Chen et al., 2019.

    Args:
        alpha: Weight of the distance of the backbone's parameters to their start, at least 0.
        beta: Weight of the squared length of taps, adaptor and head, at least 0.
        eta: Weight of BSS, at least 0.
        num_values: Singular values that BSS suppresses, at least 1.
    """
    return Both(L2SP(alpha=alpha, beta=beta), BSS(eta=eta, num_values=num_values))


@REGULARISERS.register(
    "delta_bss",
    ranges={
        "alpha": {"log_uniform": [1e-4, 1.0]},
        "beta": {"log_uniform": [1e-4, 1e-1]},
        "eta": {"log_uniform": [1e-4, 1e-1]},
    },
)
def delta_bss(
    *, alpha: float = 0.01, beta: float = 0.01, eta: float = 1e-3, num_values: int = 1, attention: bool = True
) -> Both:
    """DELTA and BSS together, as in table 1 of Chen et al., 2019.

    Args:
        alpha: Weight of the distance of the feature maps, at least 0.
        beta: Weight of the squared length of taps, adaptor and head, at least 0.
        eta: Weight of BSS, at least 0.
        num_values: Singular values that BSS suppresses, at least 1.
        attention: Of DELTA; see there.
    """
    return Both(Delta(alpha=alpha, beta=beta, attention=attention), BSS(eta=eta, num_values=num_values))


def regulariser_of(config: TrialConfig) -> Regulariser | None:
    """The regulariser that a configuration names.

    Raises:
        InvalidInput: If a parameter is out of range, or it pulls weights that never train.
    """
    built = REGULARISERS.create(config.regulariser.name, config.regulariser.params)
    if built is not None and built.holds_weights and config.parameter_efficient != ALL_WEIGHTS:
        raise InvalidInput(
            f"regulariser={config.regulariser.name} pulls the weights of the stages to their start, where "
            f"parameter_efficient={config.parameter_efficient.name} keeps them anyway; choose bss, delta or none, or "
            "parameter_efficient: none."
        )
    return built


class Start(nn.Module):
    """Parameters and buffers of a module as they are now, kept by name; part of no checkpoint.

    Args:
        module: Is left as it is.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        kept = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._names = list(kept)
        for number, value in enumerate(kept.values()):
            self.register_buffer(f"tensor{number}", value.detach().clone(), persistent=False)

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """By name without `prefix`, those whose name begins with it."""
        return {
            name.removeprefix(prefix): value
            for name, value in zip(self._names, self.buffers(), strict=True)
            if name.startswith(prefix)
        }


@contextmanager
def recorded(backbone: StagedBackbone) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Input and output by number of each stage that runs meanwhile."""
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(number: int, _stage: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        found[number] = widened(given[0]), widened(output)

    hooks = [stage.register_forward_hook(partial(keep, number)) for number, stage in enumerate(backbone.stages)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _new_parameters(model: TransferModel) -> list[nn.Parameter]:
    """Those of taps, adaptor and head, which start from nothing."""
    return [value for part in (model.features, model.adaptor, model.head) for value in part.parameters()]


def _num_positions(maps: Tensor) -> Tensor:
    """Of each row, [N], or of all."""
    if maps.ndim == 3:
        return (maps != 0).any(dim=2).sum(dim=1).clamp_min(1)
    return torch.tensor(maps.shape[2:].numel(), device=maps.device)


def _trains(stage: nn.Module) -> bool:
    return any(value.requires_grad for value in stage.parameters())


def _total(terms: Iterable[Tensor]) -> Tensor:
    return sum(terms, start=torch.zeros(()))


def _require_weight(field: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise InvalidInput(f"{field}={value!r} must be a finite number of at least 0; give 0 to switch the term off.")
