"""What `fine_tuning.py` compares a search with: fixed recipes on the same network, data, batches and epochs."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ray_tl.config import TrialConfig
from ray_tl.data.domains import DomainPair
from ray_tl.selection import ByAgreement, SelectionContext
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial
from ray_tl.training.network import build_model
from ray_tl.validation.metrics import accuracy

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
TRANSFORMER_RATES = (3e-5, 1e-4, 3e-4)  # where all of one learns; its authors take 2e-5 to 5e-5


@dataclass(frozen=True)
class Outcome:
    """Of one recipe at one learning rate.

    Attributes:
        holdout: Accuracy on source examples that it has not seen; the rate is chosen by it.
        predictions: Classes of the held-out target, [N].
    """

    rate: float
    holdout: float
    predictions: np.ndarray


Recipe = Callable[[TrialData, TrialConfig, float], Outcome]


def full(data: TrialData, config: TrialConfig, rate: float) -> Outcome:
    """Every stage and the head, at one rate."""
    return _source_only(data, config, rate, freeze_depth=0)


def head_only(data: TrialData, config: TrialConfig, rate: float) -> Outcome:
    """The head on frozen features."""
    model = build_model(config, data, load_weights=False)
    return _source_only(data, config, rate, freeze_depth=model.backbone.num_stages)


def fastai_fine_tune(data: TrialData, config: TrialConfig, rate: float) -> Outcome:
    """fastai's `Learner.fine_tune`: one epoch of the head, then all at rates from base_lr / 200 to base_lr / 2."""
    from fastai.callback import progress, schedule  # noqa: F401  both give `Learner` methods
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    torch.manual_seed(config.seed)
    model, pair = build_model(config, data), data.pair
    training, holdout = ((part.inputs, part.labels) for part in (pair.source, pair.source_holdout))
    sets = [
        list(zip(torch.from_numpy(rows), torch.from_numpy(labels), strict=True)) for rows, labels in (training, holdout)
    ]
    loaders = DataLoaders.from_dsets(*sets, bs=config.batch_size, num_workers=0, device=torch.device("cpu"))
    learner = Learner(loaders, Logits(model), loss_func=nn.CrossEntropyLoss(), splitter=_groups)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(config.epochs - 1, base_lr=rate)
    found = [_predictions(learner.model, part.inputs) for part in (pair.source_holdout, pair.target_test)]
    return Outcome(rate, float((found[0] == pair.source_holdout.labels).mean()), found[1])


RECIPES: dict[str, Recipe] = {"full": full, "head_only": head_only, "fastai": fastai_fine_tune}


def best_rate(recipe: str, pair: DomainPair, config: TrialConfig, rates: Sequence[float] | None = None) -> Outcome:
    """The recipe at the best of its rates by accuracy on the source's hold-out: without target labels, as we do."""
    data = TrialData(pair, torch.device("cpu"))
    all_of_a_transformer = recipe != "head_only" and pair.preprocessing.modality == "text"
    outcomes = []
    for rate in rates or (TRANSFORMER_RATES if all_of_a_transformer else RATES):
        outcome = RECIPES[recipe](data, config, rate)
        print(f"{recipe} at {rate:g}: {outcome.holdout:.1%} of held-out source examples", file=sys.stderr, flush=True)
        outcomes.append(outcome)
    return max(outcomes, key=lambda outcome: outcome.holdout)


class Logits(nn.Module):
    """A network that gives logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        return self.model(rows)[1]


def _source_only(data: TrialData, config: TrialConfig, rate: float, freeze_depth: int) -> Outcome:
    changes = {"freeze_depth": freeze_depth, "optimizer": {"adamw": {"lr": rate}}}
    changed = TrialConfig.model_validate({**config.model_dump(), **changes})
    with tempfile.TemporaryDirectory(prefix="rival-") as name:
        files = TrialFiles(Path(name), 0)
        rule = ByAgreement(SelectionContext(data.pair.source.classes, (), num_target=len(data.recorded["target"])))
        train_trial(changed, data, lambda report: False, files, rule)
        evidence = files.load_evidence()
    holdout = accuracy(evidence["source_holdout"], data.pair.source_holdout.labels)
    return Outcome(rate, holdout, evidence["target_test"].argmax(axis=1))


def _groups(network: Logits) -> list[list[nn.Parameter]]:
    """One group a stage that has parameters, from the input on, then the head."""
    model = network.model
    stages = [list(stage.parameters()) for stage in model.backbone.stages]
    return [*(group for group in stages if group), list(model.head.parameters())]


@torch.no_grad()
def _predictions(network: nn.Module, rows: np.ndarray) -> np.ndarray:
    network.eval()
    return torch.cat([network(part).argmax(1) for part in torch.from_numpy(rows).split(256)]).numpy()
