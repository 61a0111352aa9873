"""Shares of the classes in the target: stated, those of the source, or estimated as the network learns."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ray_tl.adaptation.method import AdaptationMethod, DomainOutputs, MethodContext
from ray_tl.errors import InvalidInput

Prior = Literal["given", "source", "estimated"]

TRUST_RANGE: Mapping[str, object] = {"uniform": [0.25, 1.0]}
PRIOR_RANGES: Mapping[str, Mapping[str, object]] = {
    "prior": {"choice": ["given", "source", "estimated"]},
    "trust": TRUST_RANGE,
}
SMALLEST_RELATIVE_SHARE = 0.01
_MAX_ITERATIONS = 1000
_TOLERANCE = 1e-7


def relative_shares(prior: Tensor) -> Tensor:
    """How many times an even share each class has, C pi_c, [C], of mean 1; all are exactly 1 if all shares are equal.

    A class below `SMALLEST_RELATIVE_SHARE`, a hundredth of an even share, counts as that: its logarithm is finite, and
    a share wrongly thought 0 can be unlearned.

    Args:
        prior: Shares [C], at least 0 and not all 0.
    """
    relative = prior / prior.max()  # dividing by the sum instead, even shares would not come out as 1 to the last digit
    relative = (relative / relative.mean()).clamp_min(SMALLEST_RELATIVE_SHARE)
    return relative / relative.mean()


@torch.no_grad()
def shares_by_likelihood(target_logits: Tensor, source_logits: Tensor) -> Tensor:
    """Shares of the classes under which the target rows are likeliest, if only the shares differ from the source's.

    Saerens et al., "Adjusting the Outputs of a Classifier to New a Priori Probabilities", 2002,
    https://doi.org/10.1162/089976602753284446: from pi = rho, until it stands, pi_c = the mean over target rows of
    w_c p_c / sum_k w_k p_k, with w = pi / rho. For rho, the shares in the source, stands the mean prediction there, as
    in Alexandari et al., "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift
    Adaptation", 2020, https://arxiv.org/abs/1901.06852: a class to which the network leans in both domains is not taken
    for a frequent one, and of a target that equals the source the shares are rho. Departure: nothing is calibrated,
    since rows on which the network has trained say nothing of how sure it may be.

    Args:
        target_logits: [M, C].
        source_logits: [N, C].

    Returns:
        float64 [C], of sum 1; not a number where a logit is not.
    """
    likelihoods = F.softmax(target_logits.double(), dim=1)
    rho = F.softmax(source_logits.double(), dim=1).mean(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    shares = rho
    for _ in range(_MAX_ITERATIONS):
        before, joint = shares, likelihoods * (shares / rho)
        shares = (joint / joint.sum(dim=1, keepdim=True)).mean(dim=0)
        if (shares - before).abs().max() < _TOLERANCE:
            break
    return shares


def label_shares(labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class among the labels, float64 [C].

    Args:
        labels: int64 [N], N >= 1.
        num_classes: C.
    """
    return torch.bincount(labels, minlength=num_classes).double() / len(labels)


def require_trust(field: str, value: float, usual: float) -> None:
    """Refuse a trust in estimates that is not in [0, 1].

    Raises:
        InvalidInput: If it is not; the message proposes `usual`.
    """
    if not 0 <= value <= 1:
        raise InvalidInput(f"{field}={value!r} must be at least 0 and at most 1; {usual} is usual.")


class PriorAware(AdaptationMethod):
    """A method that compares predictions on the target with the shares that its classes are thought to have.

    Args:
        context: Gives the stated shares, and the number of classes.
        prior: `given`: those of the trial's `target_shares`; without them, even ones. `source`: those of the source's
            labels. `estimated`: at the start of each epoch those of `shares_by_likelihood`, as far as `trust` goes; in
            the first one, whose network has yet to learn, those of the source's labels.
        trust: Part of the estimate in what is estimated, in [0, 1]; the rest are the shares in the source. A network
            that is asked for the shares that it predicts predicts them the more: wholly trusted, errors feed
            themselves.

    Attributes:
        shares: [C]; `None` where all are even.
    """

    name: ClassVar[str]
    shares: Tensor | None

    def __init__(self, context: MethodContext, *, prior: Prior = "given", trust: float = 0.5) -> None:
        super().__init__(context)
        require_trust(f"{self.name}.trust", trust, usual=0.5)
        self.prior, self.trust = prior, trust
        self.needs_domains = {"given": (), "source": ("source",), "estimated": ("source", "target")}[prior]
        stated = context.target_shares if prior == "given" else None
        self.register_buffer("shares", None if stated is None else torch.tensor(stated), persistent=False)

    @torch.no_grad()
    def begin_epoch(self, domains: Mapping[str, DomainOutputs], progress: float) -> None:
        if self.prior == "given":
            return
        source = domains["source"]
        assert source.labels is not None
        shares = label_shares(source.labels, source.logits.shape[1])
        if self.prior == "estimated" and progress > 0:
            shares = shares.lerp(shares_by_likelihood(domains["target"].logits, source.logits), self.trust)
        self.shares = shares.to(source.features)
