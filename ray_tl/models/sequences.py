"""Texts on their way through the stages: hidden states whose padding is exactly zero.

So the mask travels inside the one tensor that stages hand on, and whatever cuts, joins or stores rows of hidden states
need not know of it. What stands at a token is the output of a normalisation or a sum of embeddings, and never zero; but
that of a word without a vector is, so that it counts as little as padding, and may stand between others.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ray_tl.models.adaptors import JointDropout
from ray_tl.models.stages import Entry
from ray_tl.tokens import PAD, Vocabulary, resolve_missing

BLANK_LENGTH = 8
ROWS_TOGETHER = 16


def real_positions(hidden: Tensor) -> Tensor:
    """Where tokens are that count and no padding, bool [N, L], of hidden states [N, L, D]."""
    return (hidden != 0).any(dim=2)


def zero_padding(hidden: Tensor, real: Tensor) -> Tensor:
    """Hidden states [N, L, D] with zeros where `real`, [N, L], says that there is no token."""
    return hidden.masked_fill(~real[:, :, None], 0.0)


def mean_of_tokens(hidden: Tensor) -> Tensor:
    """Mean over the tokens of each text, [N, L, D] to [N, D]; 0 of a text without any."""
    return hidden.sum(dim=1) / real_positions(hidden).sum(dim=1, keepdim=True).clamp_min(1)


def max_of_tokens(hidden: Tensor) -> Tensor:
    """Largest value over the tokens of each text, [N, L, D] to [N, D]; 0 of a text without any."""
    real = real_positions(hidden)
    largest = hidden.masked_fill(~real[:, :, None], -torch.inf).amax(dim=1)
    return largest.masked_fill(~real.any(dim=1, keepdim=True), 0.0)


class TokenEntry(Entry):
    """Numbers of tokens, int [N, L] with `PAD` after the end, to as many columns as the longest text needs.

    Args:
        vocabulary: Says what stands in the place of tokens that are marked as missing, and which never are.
    """

    modality = "text"

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, rows: Tensor) -> Tensor:
        tokens = resolve_missing(rows.long(), self.vocabulary)
        return _cut(tokens, tokens >= 0)

    def suspend(self, activations: Tensor, rows: Tensor) -> Tensor:
        if activations.ndim != 3:  # pooled
            return activations
        return F.pad(activations, (0, 0, 0, rows.shape[1] - activations.shape[1]))

    def resume(self, activations: Tensor) -> Tensor:
        return _cut(activations, real_positions(activations)) if activations.ndim == 3 else activations

    def order(self, rows: Tensor) -> Tensor:
        """Texts of about the same length together: a batch is as wide as its longest."""
        if rows.ndim == 2 and rows.is_floating_point():  # pooled
            return torch.arange(len(rows))
        real = rows != PAD if rows.ndim == 2 else real_positions(rows)
        return real.sum(dim=1).argsort(stable=True)

    def blank(self) -> Tensor:
        return torch.full((1, BLANK_LENGTH), self.vocabulary.mask_id)

    def extra_repr(self) -> str:
        return repr(self.vocabulary)


class TokenEmbeddings(nn.Module):
    """Stage 0: numbers of tokens [N, L], `PAD` after the end, to hidden states [N, L, D].

    Args:
        embeddings: From numbers of tokens to hidden states.
        pad_id: A number that the embeddings know, in the place of `PAD`.
    """

    def __init__(self, embeddings: nn.Module, pad_id: int) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.pad_id = pad_id

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens >= 0
        return zero_padding(self.embeddings(tokens.masked_fill(~real, self.pad_id)), real)


class TokenLayer(nn.Module):
    """A layer of a transformer, as transformers has it, on hidden states [N, L, D].

    A batch is as wide as its longest text. On a processor, where padding costs as much as tokens, texts of about the
    same length therefore go through together, `ROWS_TOGETHER` at a time: the same numbers in two thirds of the time.

    Args:
        layer: Takes hidden states and a mask, [N, 1, L, L] or [N, 1, 1, L], true where attention may look.
        causal: Whether a token sees what stands before it alone.
    """

    def __init__(self, layer: nn.Module, causal: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.causal = causal

    def forward(self, hidden: Tensor) -> Tensor:
        real = real_positions(hidden)
        if hidden.device.type != "cpu" or len(hidden) <= ROWS_TOGETHER or self._draws_for_the_batch():
            return self._of_one_width(hidden, real)
        lengths, parts = real.sum(dim=1), []
        order = lengths.argsort(stable=True)
        for rows in order.split(ROWS_TOGETHER):
            width = max(1, int(lengths[rows[-1]]))
            part = self._of_one_width(hidden[rows, :width], real[rows, :width])
            parts.append(F.pad(part, (0, 0, 0, hidden.shape[1] - width)))
        return torch.cat(parts)[order.argsort()]

    def _draws_for_the_batch(self) -> bool:
        return self.training and any(isinstance(part, JointDropout) and part.share for part in self.layer.modules())

    def _of_one_width(self, hidden: Tensor, real: Tensor) -> Tensor:
        mask = real[:, None, None, :]
        if self.causal:  # padding comes last, so no token sees it
            length = hidden.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[None, None]
        return zero_padding(self.layer(hidden, attention_mask=mask), real)


class MeanOfTokens(nn.Module):
    """Mean over the tokens of each text, [N, L, D] to [N, D]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return mean_of_tokens(hidden)


class MaxOfTokens(nn.Module):
    """Largest value over the tokens of each text, [N, L, D] to [N, D]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return max_of_tokens(hidden)


class MeanAndMaxOfTokens(nn.Module):
    """Mean and largest value over the tokens of each text side by side, [N, L, D] to [N, 2 D]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.cat([mean_of_tokens(hidden), max_of_tokens(hidden)], dim=1)


class FirstToken(nn.Module):
    """What stands at the first token, [N, L, D] to [N, D]."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]


class LastToken(nn.Module):
    """What stands at the last token before the padding, normalised, [N, L, D] to [N, D].

    Args:
        norm: Of vectors of width D.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, hidden: Tensor) -> Tensor:
        last = (real_positions(hidden).sum(dim=1) - 1).clamp_min(0)
        rows = torch.arange(len(hidden), device=hidden.device)
        normal: Tensor = self.norm(hidden[rows, last])
        return normal


def _cut(x: Tensor, real: Tensor) -> Tensor:
    """The columns [N, L, ...] up to the last real one; all where values are not known, as in a check of shapes."""
    if x.is_meta:
        return x
    columns = real.any(dim=0).nonzero()
    return x[:, : int(columns[-1]) + 1] if len(columns) else x[:, :1]
