"""A judge of target predictions that no trial can train: neighbours in a space that is fixed before the search."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ray_tl.config import Component, TrialConfig
from ray_tl.models.domain_norm import Domain
from ray_tl.neighbours import Neighbours, nearest_neighbours
from ray_tl.training.data import TrialData
from ray_tl.training.evaluation import predict_features
from ray_tl.training.network import build_model
from ray_tl.training.randomness import generator

ROWS = 1000  # of the target, and half as many of the source: about a minute of a large network on a processor
ROWS_A_CLASS = 10
THUMBNAIL = 16  # pixels
LEAST_TRUST = 0.3

Space = Callable[[Tensor, Domain], NDArray[np.floating]]


@dataclass(frozen=True)
class Reference:
    """Neighbours in the target, and how far they can be believed.

    Attributes:
        neighbours: Of target examples.
        space: What they are near in, in words.
        trust: Agreement of the source's own labels between source neighbours in the same space: 0 by chance, at most 1.
    """

    neighbours: Neighbours
    space: str
    trust: float

    @property
    def can_be_trusted(self) -> bool:
        return self.trust >= LEAST_TRUST

    def in_words(self) -> str:
        """What predictions on the target are held against, for a person."""
        agreement = f"agreement {self.trust:.2f}; 1 at most, 0 by chance"
        if self.can_be_trusted:
            return f"nearest neighbours in the {self.space}, where source examples share their label ({agreement})"
        return (
            f"confidence and diversity alone: neighbours in the {self.space} hardly share their label in the source "
            f"({agreement})"
        )


def find_reference(backbone: Component, data: TrialData, seed: int) -> Reference | None:
    """Neighbours in whichever space says more of the source's labels; `None` if a domain has fewer than two examples.

    The spaces are the features of a backbone before anything is trained, and the inputs themselves: thumbnails, or
    words weighted by their rarity. Target labels have no part in it.

    Raises:
        InvalidInput: If the backbone can't be built, or its weights can't be had.
    """
    pair = data.pair
    if min(len(pair.source), len(pair.target)) < 2:
        return None
    least = ROWS_A_CLASS * pair.num_classes
    source = _some_rows(data, "source", max(ROWS // 2, least), seed)
    target = _some_rows(data, "target", max(ROWS, least), seed)
    spaces: dict[str, Space] = {
        f"features of {backbone.name} as it comes": _features_of(backbone, data, seed),
        "words" if pair.modality == "text" else "pixels": _words if pair.modality == "text" else _thumbnails,
    }

    def trust(name: str) -> float:
        nearest = nearest_neighbours(spaces[name](data.rows["source"][source], "source"), source.numpy())
        return nearest.agreement(pair.source.labels, pair.num_classes)

    trusts = {name: trust(name) for name in spaces}
    best = max(trusts, key=trusts.__getitem__)
    found = nearest_neighbours(spaces[best](data.rows["target"][target], "target"), target.numpy())
    return Reference(found, best, trusts[best])


def _some_rows(data: TrialData, domain: str, limit: int, seed: int) -> Tensor:
    """Always the same, at random: folders are read class by class."""
    return torch.randperm(len(data.rows[domain]), generator=generator(seed, "reference", domain))[:limit]


def _features_of(backbone: Component, data: TrialData, seed: int) -> Space:
    model = build_model(TrialConfig(backbone=backbone, batch_size=64, epochs=1, seed=seed), data).to(data.device)

    def features(rows: Tensor, domain: Domain) -> NDArray[np.floating]:
        found: NDArray[np.floating] = predict_features(model, rows, 0, data.device, domain).float().numpy()
        return found

    return features


def _thumbnails(rows: Tensor, domain: Domain) -> NDArray[np.floating]:
    """Flat images of at most `THUMBNAIL` pixels a side."""
    side = min(THUMBNAIL, rows.shape[-1])
    thumbnails: NDArray[np.floating] = F.adaptive_avg_pool2d(rows.float(), side).flatten(1).numpy()
    return thumbnails


def _words(rows: Tensor, domain: Domain) -> NDArray[np.floating]:
    """TF-IDF of tokens, [R, words that occur]."""
    from sklearn.feature_extraction.text import TfidfTransformer

    tokens, places = torch.unique(rows, return_inverse=True)
    counts = torch.zeros(len(rows), len(tokens)).scatter_add_(1, places, torch.ones_like(places, dtype=torch.float))
    weighted: NDArray[np.floating] = TfidfTransformer().fit_transform(counts[:, tokens >= 0].numpy()).toarray()
    return weighted
