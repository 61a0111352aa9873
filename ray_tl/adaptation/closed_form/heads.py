"""Heads that are not one linear layer. Their buffers are all there is to them; no gradient reaches the features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.adaptation.numerics import full_precision


@full_precision
def nearness(queries: Tensor, rows: Tensor, *, cosine: bool) -> Tensor:
    """How near each row is to each query, [B, N], higher is nearer: the cosine, or a number that falls with distance.

    The latter is q.r - ||r||^2 / 2 = (||q||^2 - ||q - r||^2) / 2, of which the first term does not change the order:
    one product of matrices. Standardised rows lie around 0, so that little cancels.

    Args:
        queries: [B, D].
        rows: [N, D].
        cosine: Whether the angle counts; that of a row of zeros is a right angle.
    """
    if cosine:
        return F.normalize(queries) @ F.normalize(rows).T
    return queries @ rows.T - rows.square().sum(dim=1) / 2


class NearestNeighboursHead(nn.Module):
    """Logarithm of the class shares among the nearest stored rows, with one more neighbour spread over all classes.

    Features are standardised first; the stored rows are so already. If several rows are at the distance of the k-th,
    which of them count is not defined.

    Args:
        num_rows: N >= k.
        feature_dim: D.
        num_classes: C.
        k: Number of neighbours.
        cosine: Whether the nearest rows are those of the least angle; otherwise of the least Euclidean distance.
    """

    rows: Tensor
    labels: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, num_rows: int, feature_dim: int, num_classes: int, *, k: int, cosine: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.k = k
        self.cosine = cosine
        self.register_buffer("rows", torch.zeros(num_rows, feature_dim))
        self.register_buffer("labels", torch.zeros(num_rows, dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] to logits [B, C], whose softmax is (share * k + 1 / C) / (k + 1)."""
        queries = (features.detach().to(self.rows.dtype) - self.mean) / self.scale
        nearest = nearness(queries, self.rows, cosine=self.cosine).topk(self.k).indices
        counts = F.one_hot(self.labels[nearest], self.num_classes).sum(dim=1)
        return ((counts.to(self.rows.dtype) + 1 / self.num_classes) / (self.k + 1)).log()


class ForestHead(nn.Module):
    """Logarithm of the mean class shares in the leaves that an example reaches.

    The nodes of all trees follow one another. A leaf is its own child, so that all trees can be walked for as many
    steps as the deepest needs.

    Args:
        num_trees: T.
        num_nodes: Of all trees together.
        num_classes: C.
    """

    roots: Tensor
    branches: Tensor
    feature: Tensor
    threshold: Tensor
    share: Tensor
    depth: Tensor

    def __init__(self, num_trees: int, num_nodes: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("roots", torch.zeros(num_trees, dtype=torch.int64))
        self.register_buffer("branches", torch.zeros(2, num_nodes, dtype=torch.int64))
        self.register_buffer("feature", torch.zeros(num_nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(num_nodes))
        self.register_buffer("share", torch.zeros(num_nodes, num_classes))
        self.register_buffer("depth", torch.zeros((), dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        """Features [B, D] to logits [B, C], whose softmax is the mean share; a share of 0 has a finite logit."""
        values = features.detach().float()  # scikit-learn compares features in float32, too
        node = self.roots.expand(len(features), -1)
        for _ in range(int(self.depth)):
            is_right = values.gather(1, self.feature[node]) > self.threshold[node]
            node = self.branches[is_right.long(), node]
        return self.share[node].mean(dim=1).clamp_min(torch.finfo(self.share.dtype).tiny).log()
