"""Several networks that answer together."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ray_tl.models.domain_norm import Domain
from ray_tl.models.stages import StagedBackbone
from ray_tl.models.transfer_model import TransferModel


class Ensemble(nn.Module):
    """The mean softmax of networks; its features are theirs side by side, and its logits the logarithm of that mean.

    It is evaluated and served, and never trained.

    Args:
        members: At least one, of the same classes and inputs.
    """

    def __init__(self, members: Sequence[TransferModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.head = MeanHead(members)
        self.num_classes = members[0].num_classes

    @property
    def networks(self) -> list[TransferModel]:
        return [member for member in self.members if isinstance(member, TransferModel)]

    @property
    def backbone(self) -> StagedBackbone:
        """Of the first member: how rows enter is the same for all."""
        return self.networks[0].backbone

    @property
    def feature_dim(self) -> int:
        """D, the sum of the members' widths."""
        return sum(member.feature_dim for member in self.networks)

    def forward(self, rows: Tensor, start: int = 0, domains: Sequence[Domain] = ("target",)) -> tuple[Tensor, Tensor]:
        """As `TransferModel`: rows of a domain to features [N, D] and logits [N, C]."""
        features = torch.cat([member(rows, start, domains)[0] for member in self.networks], dim=1)
        return features, self.head(features)


class MeanHead(nn.Module):
    """Features of all members, [N, D], to the logarithm of the mean softmax of their heads, [N, C].

    Args:
        members: In the order of their features. They stay those of the ensemble: a state holds them once.
    """

    def __init__(self, members: Sequence[TransferModel]) -> None:
        super().__init__()
        self._members = tuple(members)  # a tuple: its modules are not registered twice

    def forward(self, features: Tensor) -> Tensor:
        parts = features.split([member.feature_dim for member in self._members], dim=1)
        logits = [member.head(part) for member, part in zip(self._members, parts, strict=True)]
        each = torch.stack([one.float().log_softmax(dim=1) for one in logits])
        return each.logsumexp(dim=0) - torch.tensor(len(logits), dtype=torch.float32, device=features.device).log()


Network = TransferModel | Ensemble
"""What a trial leaves, and what is served."""


def members_of(network: Network) -> list[TransferModel]:
    """The networks that an ensemble asks; of another the network itself."""
    return network.networks if isinstance(network, Ensemble) else [network]
