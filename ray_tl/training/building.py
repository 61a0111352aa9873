"""From the configuration of a trial to what it trains, and what trains it."""

from collections.abc import Sequence
from typing import Any

import torch

from ray_tl.adaptation import METHODS, AdaptationMethod, MethodContext
from ray_tl.adaptation.loss_weights import LOSS_WEIGHTS
from ray_tl.collectives import world_size
from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.models.distributed_norm import convert_batch_norm
from ray_tl.models.fine_tuning import LR_MULTIPLIERS, parameter_groups
from ray_tl.models.transfer_model import TransferModel, stages_of
from ray_tl.randomness import derive_seed, seed_torch
from ray_tl.training.data import TrialData
from ray_tl.training.feed import joining, num_labelled
from ray_tl.training.multi_task import MULTI_TASKS, Auxiliary, MultiTaskContext
from ray_tl.training.network import build_model
from ray_tl.training.optimisation import OptimizerChoice
from ray_tl.training.regularisers import regulariser_of
from ray_tl.training.task import AdaptationTask


def build_task(config: TrialConfig, data: TrialData, method: AdaptationMethod | None = None) -> AdaptationTask:
    """Network, method and loss weights on the device, their new parts initialised from the trial's seed.

    Args:
        config: The whole trial.
        data: Domains of the study.
        method: In the place of the configuration's.
    """
    model = build_model(config, data)
    method = method or _method(config, data, model)
    check_mixing(config, method)
    check_class_balance(config, method)
    weights = LOSS_WEIGHTS.create(config.loss_weighting.name, config.loss_weighting.params)
    share, smoothing = config.target_label_weight, config.label_smoothing
    regulariser, auxiliary = regulariser_of(config), _auxiliary(config, data, model)
    task = AdaptationTask(model, method, weights, share, smoothing, regulariser, auxiliary)
    if world_size() > 1:
        convert_batch_norm(task)
    task = task.to(data.device)
    if regulariser is not None and regulariser.examines and stages_of(config, model):
        regulariser.examine(model, data.rows["source"], data.labels, data.device)
    return task


def _method(config: TrialConfig, data: TrialData, model: TransferModel) -> AdaptationMethod:
    with torch.random.fork_rng(devices=[]):
        seed_torch(derive_seed(config.seed, "method"))
        num_source = len(data.pair.source) + sum(len(domain) for _, domain in joining(config, data.pair))
        rows = num_source, len(data.pair.target), num_labelled(data.pair)
        words = data.pair.source.classes, model.backbone.embed_texts
        shares = target_shares(config, data.pair.source.classes)
        context = MethodContext(model.feature_dim, data.pair.num_classes, *rows, *words, shares)
        return METHODS.create(config.method.name, config.method.params, context)


def _auxiliary(config: TrialConfig, data: TrialData, model: TransferModel) -> Auxiliary | None:
    with torch.random.fork_rng(devices=[]):
        seed_torch(derive_seed(config.seed, "auxiliary"))
        classes = 0 if data.pair.auxiliary is None else len(data.pair.auxiliary.classes)
        context = MultiTaskContext(model.feature_dim, classes)
        return MULTI_TASKS.create(config.multi_task.name, config.multi_task.params, context)


def target_shares(config: TrialConfig, classes: Sequence[str]) -> tuple[float, ...] | None:
    """The stated share of each class in the target; raises `InvalidInput` if there are not as many as classes."""
    shares = config.target_shares
    if shares is not None and len(shares) != len(classes):
        raise InvalidInput(
            f"target_shares={shares!r} has {len(shares)} shares, and there are {len(classes)} classes, from "
            f"{classes[0]!r} to {classes[-1]!r}; give one share for each, in the order of the classes."
        )
    return shares


def check_mixing(config: TrialConfig, method: AdaptationMethod) -> None:
    """Raise `InvalidInput` if source examples are to be mixed for a method that takes each on its own."""
    if config.mixing.name != "none" and not method.takes_mixed_source:
        raise InvalidInput(
            f"mixing={config.mixing.name!r} does not go with method {config.method.name!r}, which takes each source "
            "example on its own or none at all; choose mixing by method, with the case none for this one."
        )


def check_class_balance(config: TrialConfig, method: AdaptationMethod) -> None:
    """Raise `InvalidInput` if classes of the source are to be evened out for a method to which that means nothing."""
    stated = config.class_balance.name
    remedy = "choose class_balance by method, with the case none for this one"
    if stated != "none" and "source" not in method.needs:
        raise InvalidInput(
            f"class_balance={stated!r} does not go with method {config.method.name!r}, which looks at no source "
            f"example; {remedy}."
        )
    if stated == "smote" and not method.takes_new_source_rows:
        raise InvalidInput(
            f"class_balance='smote' does not go with method {config.method.name!r}, which remembers something of each "
            f"source example from epoch to epoch; {remedy}, or sampling."
        )


def build_optimizer(
    config: TrialConfig, task: AdaptationTask, choice: OptimizerChoice
) -> tuple[torch.optim.Optimizer, list[float]]:
    """The optimiser, and the base learning rate of each of its groups: stages, head, then what the method learns."""
    multipliers = LR_MULTIPLIERS.create(config.lr_multipliers.name, config.lr_multipliers.params)
    model = task.model
    groups: list[Any] = [*parameter_groups(model, choice.lr, multipliers.multipliers(model.backbone.num_stages))]
    others = [value for name, value in task.named_parameters() if not name.startswith("model.")]
    learned = [value for value in others if value.requires_grad]
    groups += [{"params": learned, "lr": choice.lr, "name": "method"}] if learned else []
    groups = choice.groups(groups)
    return choice.build(groups), [float(group["lr"]) for group in groups]
