"""By which statistics the layers that train normalise: those of both domains, of each domain, or of each example."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ray_tl.errors import InvalidInput
from ray_tl.registry import Registry

Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, Domain] = ("source", "target")


def domain_of(name: str) -> Domain:
    """The domain of a view or a data set by its name; another task normalises as the source does."""
    return "source" if name.startswith(("source", "auxiliary")) else "target"


class DomainNorm(Protocol):
    """What stands where batch normalisation stood, in stages that train and in the adaptor."""

    def convert(self, norm: _BatchNorm) -> nn.Module:
        """The layer itself, or one that takes over its scale and shift."""
        ...


DOMAIN_NORMS: Registry[DomainNorm] = Registry("domain normalisation")


@DOMAIN_NORMS.register("shared")
class Shared:
    """Batch normalisation as it is: batch and running statistics are those of both domains together."""

    def convert(self, norm: _BatchNorm) -> nn.Module:
        return norm


@DOMAIN_NORMS.register("separate")
class Separate:
    """Batch normalisation with statistics of its own for each domain; see `DomainBatchNorm`.

    Frozen stages keep theirs, and a network in which nothing that trains has batch normalisation is as with `shared`.
    """

    def convert(self, norm: _BatchNorm) -> nn.Module:
        return DomainBatchNorm(norm)


@DOMAIN_NORMS.register("own_batch")
class OwnBatch:
    """Batch normalisation of each domain by its own rows of the batch, with running statistics of both: `OwnBatchNorm`.

    What a network has in other libraries, which pass source and target through it one after the other.
    """

    def convert(self, norm: _BatchNorm) -> nn.Module:
        return OwnBatchNorm(norm)


@DOMAIN_NORMS.register("instance")
class Instance:
    """Instance normalisation in the place of batch normalisation of feature maps, the same for both domains.

    Ulyanov et al., "Instance Normalization", 2016, https://arxiv.org/abs/1607.08022, eq. 3, with the scale and shift
    of the layer that it replaces. Stages that the trial never trains and the adaptor, whose rows have no positions,
    keep batch normalisation; a network in which no feature map that trains has it is as with `shared`.
    """

    def convert(self, norm: _BatchNorm) -> nn.Module:
        return InstanceNorm(norm) if isinstance(norm, nn.BatchNorm2d) else norm


class NormByDomain(nn.Module, ABC):
    """Batch normalisation of the rows of each domain by themselves.

    Attributes:
        domains: Of the equally long parts of the next batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.domains: tuple[Domain, ...] = ("target",)

    @property
    @abstractmethod
    def served(self) -> _BatchNorm:
        """Ordinary batch normalisation, as it stands in the network that is served."""

    @abstractmethod
    def norm_of(self, domain: Domain) -> _BatchNorm:
        """What the rows of a domain pass through."""

    def forward(self, x: Tensor) -> Tensor:
        """Inputs [N, C] or [N, C, ...] to the same shape; N is a multiple of the number of parts."""
        parts = list(x.chunk(len(self.domains)))
        for domain in dict.fromkeys(self.domains):
            places = [place for place, each in enumerate(self.domains) if each == domain]
            normal = self.norm_of(domain)(torch.cat([parts[place] for place in places]))
            for place, part in zip(places, normal.chunk(len(places)), strict=True):
                parts[place] = part
        return torch.cat(parts)

    def extra_repr(self) -> str:
        return ", ".join(DOMAINS)


class OwnBatchNorm(NormByDomain):
    """One batch normalisation, through which the rows of each domain in a joint batch pass apart.

    In training the rows of a domain are normalised by their own statistics, and the running statistics follow both
    domains in turn; in evaluation nothing differs from ordinary batch normalisation.

    Args:
        norm: Which stays the layer that it is.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    @property
    def served(self) -> _BatchNorm:
        return self.norm

    def norm_of(self, domain: Domain) -> _BatchNorm:
        return self.norm


class DomainBatchNorm(NormByDomain):
    """Batch normalisation with statistics of its own for each domain; scale and shift are shared.

    Chang et al., "Domain-Specific Batch Normalization for Unsupervised Domain Adaptation", 2019,
    https://arxiv.org/abs/1906.03950. Departures: scale and shift are one for both domains, as in AdaBN (Li et al.,
    2016, https://arxiv.org/abs/1603.04779), since one network is served; a single stage of training, by any method.

    In training, rows of a domain are normalised by the statistics of all its rows in the joint batch, and move its
    running statistics alone. A domain of which no row has been seen yet has the running statistics of the other: with
    a method that never looks at the target, the network is that of ordinary batch normalisation.

    Args:
        norm: Whose parameters and statistics are taken over, the latter for both domains.
    """

    seen: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        source = copy.deepcopy(norm)
        source.weight, source.bias = norm.weight, norm.bias
        self.norms = nn.ModuleDict({"source": source, "target": norm})
        self.register_buffer("seen", torch.zeros(len(DOMAINS), dtype=torch.bool))

    @property
    def served(self) -> _BatchNorm:
        return self.norm_of("target")

    def norm_of(self, domain: Domain) -> _BatchNorm:
        norm = self.norms[domain]
        assert isinstance(norm, _BatchNorm)
        return norm

    def forward(self, x: Tensor) -> Tensor:
        normal = super().forward(x)
        if self.training:
            self._follow()
        return normal

    @torch.no_grad()
    def _follow(self) -> None:
        """Give a domain that has never been seen the statistics of the other."""
        for number, (domain, other) in enumerate([DOMAINS, DOMAINS[::-1]]):
            if domain in self.domains:
                self.seen[number] = True
                continue
            for name in ("running_mean", "running_var"):
                mine, theirs = getattr(self.norms[domain], name), getattr(self.norms[other], name)
                mine.copy_(torch.where(self.seen[number], mine, theirs))  # not read on the CPU: a GPU goes on


class InstanceNorm(nn.GroupNorm):
    """Each channel of each example, by its own mean and variance over positions; the same in evaluation.

    One group a channel: parameters are found by whatever looks for those of normalisation.

    Args:
        norm: Whose scale and shift, and what follows them in timm's `BatchNormAct2d`, are taken over.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.num_features, norm.eps, affine=False)
        self.weight, self.bias = norm.weight, norm.bias
        self.drop: nn.Module = getattr(norm, "drop", nn.Identity())
        self.act: nn.Module = getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps [N, C, H, W] to the same shape.

        Raises:
            InvalidInput: If they have a single position, whose deviation from its mean is always 0.
        """
        if x.shape[2:].numel() == 1:
            raise InvalidInput(
                "domain_norm='instance' needs feature maps of more than one position, and some that train are 1 x 1; "
                "raise data.image_size or freeze_depth, or choose domain_norm: shared."
            )
        return self.act(self.drop(super().forward(x)))


def convert_norms(parts: Iterable[nn.Module], convert: Callable[[_BatchNorm], nn.Module]) -> None:
    """Put what `convert` gives in the place of every batch normalisation inside these modules."""
    for part in parts:
        for name, child in part.named_children():
            if isinstance(child, _BatchNorm):
                setattr(part, name, convert(child))
            else:
                convert_norms([child], convert)


def keep_target_norms(module: nn.Module) -> None:
    """Put ordinary batch normalisation, as it is served, in the place of every `NormByDomain` inside."""
    for name, child in module.named_children():
        if isinstance(child, NormByDomain):
            setattr(module, name, child.served)
        else:
            keep_target_norms(child)


def set_domains(module: nn.Module, domains: Sequence[Domain]) -> None:
    """Tell every `NormByDomain` in `module` of which domains the equally long parts of the next batch are."""
    for part in module.modules():
        if isinstance(part, NormByDomain):
            part.domains = tuple(domains)
