"""A closer look at the network that a trial ended as: what validators ask for beside probabilities."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ray_tl.data.augmentation import as_input
from ray_tl.models.domain_norm import Domain, domain_of
from ray_tl.models.ensemble import Network
from ray_tl.neighbours import num_looked_at
from ray_tl.randomness import generator, some_rows
from ray_tl.training.data import Inputs, TrialData
from ray_tl.training.evaluation import EVAL_BATCH, predict_features
from ray_tl.validation.evidence import Features, FinalEvidence, Mixes

MIX_RATIO = 0.55  # Hu et al., 2023: the first example must win by little
SEED = 0  # the same rows for every trial of a study


def look_closer(model: Network, inputs: Inputs, data: TrialData, target: NDArray[np.float32]) -> FinalEvidence | None:
    """Features of some rows, in the same rows for every trial, and predictions on mixtures of target examples.

    Ranks share the work on features and all get the whole.

    Args:
        model: Left in the mode in which it was.
        inputs: Of every domain, unchanged.
        data: Domains of the study.
        target: Softmax on the recorded rows of the target, [M, C].

    Returns:
        `None` where a domain has fewer than two examples.
    """
    pair = data.pair
    limit = num_looked_at(pair.num_classes)
    counts = {name: len(inputs.rows[name]) for name in ("source", "source_holdout", "target")}
    if min(counts.values()) < 2:
        return None
    rows = {name: some_rows(count, limit, SEED, "final evidence", name).sort().values for name, count in counts.items()}
    features = {
        name: Features(chosen.numpy(), _features(model, inputs, data, name, chosen)) for name, chosen in rows.items()
    }
    return FinalEvidence(
        features=features,
        training_labels=pair.source.labels[features["source"].rows],
        holdout_labels=data.holdout_labels,
        mixes=_mixes(model, inputs, data, rows["target"], target.argmax(axis=1)),
        head=model.head.weight.detach().float().cpu().numpy() if isinstance(model.head, nn.Linear) else None,
    )


def _features(model: Network, inputs: Inputs, data: TrialData, name: str, rows: Tensor) -> NDArray[np.float32]:
    found = predict_features(model, inputs.rows[name][rows], inputs.start, data.device, domain_of(name))
    values: NDArray[np.float32] = found.float().numpy()
    return values


def _mixes(model: Network, inputs: Inputs, data: TrialData, rows: Tensor, predicted: NDArray[np.int64]) -> Mixes:
    """Every second example is mixed with one of the same predicted class, if there is another, the rest with others.

    What is mixed is what enters the network: images, or activations behind frozen stages. Texts have no mean: of those
    it is the features that are mixed.
    """
    second = torch.as_tensor(partners(rows.numpy(), predicted))
    target = inputs.rows["target"]
    probabilities = [
        _on_mixtures(model, target[some], target[others], inputs.start, data.device)
        for some, others in zip(rows.split(EVAL_BATCH), second.split(EVAL_BATCH), strict=True)
    ]
    return Mixes(rows.numpy(), second.numpy(), MIX_RATIO, torch.cat(probabilities).numpy())


def partners(rows: NDArray[np.int64], predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of the rows another one: in turn of the same predicted class and of another, where there is one.

    Args:
        rows: Of the target, at least two, [R].
        predicted: Class of every row of the target, [M].
    """
    order = torch.randperm(len(rows), generator=generator(SEED, "mixtures")).numpy()
    classes = predicted[rows[order]]
    found = np.empty_like(rows)
    for place, row in enumerate(order):
        others = np.roll(np.arange(len(rows)), -place)[1:]  # those behind it first: each is taken about as often
        alike = classes[others] == classes[place]
        wanted = others[alike == (place % 2 == 0)]
        found[row] = rows[order[wanted[0] if len(wanted) else others[0]]]
    return found


@torch.no_grad()
def _on_mixtures(model: Network, first: Tensor, second: Tensor, start: int, device: torch.device) -> Tensor:
    was_training, domains = model.training, (_TARGET,)
    model.eval()
    if model.backbone.entry.modality == "text":
        features = [model(part.to(device), start, domains)[0] for part in (first, second)]
        logits = model.head(torch.lerp(features[1], features[0], MIX_RATIO))
    else:
        one, other = (part.to(device) if start else as_input(part.to(device)) for part in (first, second))
        logits = model(torch.lerp(other, one, MIX_RATIO), start, domains)[1]
    model.train(was_training)
    found: Tensor = logits.float().softmax(dim=1).cpu()
    return found


_TARGET: Domain = "target"
