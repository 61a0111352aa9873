"""Features of both domains in spaces that nothing has trained, among which the judge of a search is chosen."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ray_tl.config import Component, TrialConfig
from ray_tl.models.domain_norm import Domain
from ray_tl.neighbours import ROWS, num_looked_at
from ray_tl.randomness import some_rows
from ray_tl.selection.fixed_space import Both, FixedSpace, most_trusted_space
from ray_tl.training.data import TrialData
from ray_tl.training.evaluation import predict_features
from ray_tl.training.network import build_model

THUMBNAIL = 16  # pixels

Space = Callable[[Tensor, Tensor], Both]


def find_fixed_space(backbone: Component, data: TrialData, seed: int) -> FixedSpace | None:
    """Neighbours in whichever space says more of the source's labels; `None` if a domain has fewer than two examples.

    The spaces are the features of a backbone before anything is trained, and the inputs themselves: thumbnails, or
    words weighted by their rarity. Target labels have no part in it.

    Raises:
        InvalidInput: If the backbone can't be built, or its weights can't be had.
    """
    pair = data.pair
    if min(len(pair.source), len(pair.target)) < 2:
        return None
    limits = {"source": num_looked_at(pair.num_classes, ROWS // 2), "target": num_looked_at(pair.num_classes)}
    domains = {name: data.recorded[name] for name in limits}
    source, target = (some_rows(len(domains[name]), limit, seed, "reference", name) for name, limit in limits.items())
    spaces: dict[str, Space] = {
        f"features of {backbone.name} as it comes": _features_of(backbone, data, seed),
        "words" if pair.modality == "text" else "pixels": _words if pair.modality == "text" else _thumbnails,
    }
    looked_at = domains["source"][source], domains["target"][target]
    features = {name: space(*looked_at) for name, space in spaces.items()}
    return most_trusted_space(features, pair.source.labels[source.numpy()], target.numpy(), pair.num_classes)


def _features_of(backbone: Component, data: TrialData, seed: int) -> Space:
    model = build_model(TrialConfig(backbone=backbone, batch_size=64, epochs=1, seed=seed), data).to(data.device)

    def features(rows: Tensor, domain: Domain) -> NDArray[np.floating]:
        found: NDArray[np.floating] = predict_features(model, rows, 0, data.device, domain).float().numpy()
        return found

    return lambda source, target: (features(source, "source"), features(target, "target"))


def _thumbnails(source: Tensor, target: Tensor) -> Both:
    """Flat images of at most `THUMBNAIL` pixels a side."""
    side = min(THUMBNAIL, source.shape[-1])
    small = [F.adaptive_avg_pool2d(rows.float(), side).flatten(1).numpy() for rows in (source, target)]
    return small[0], small[1]


def _words(source: Tensor, target: Tensor) -> Both:
    """TF-IDF of tokens, [R, words that occur in either]."""
    weighted = _weighted_words(torch.cat([source, target]))
    return weighted[: len(source)], weighted[len(source) :]


def _weighted_words(rows: Tensor) -> NDArray[np.floating]:
    from sklearn.feature_extraction.text import TfidfTransformer

    tokens, places = torch.unique(rows, return_inverse=True)
    counts = torch.zeros(len(rows), len(tokens)).scatter_add_(1, places, torch.ones_like(places, dtype=torch.float))
    weighted: NDArray[np.floating] = TfidfTransformer().fit_transform(counts[:, tokens >= 0].numpy()).toarray()
    return weighted
