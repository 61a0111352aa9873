"""Causal transformers that read texts: GPT-2, by transformers, which is imported inside the functions."""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ray_tl.models.backbones.common import BACKBONES, BackboneContext
from ray_tl.models.backbones.transformer_texts import architecture_of, load_transformer, vocabulary_for
from ray_tl.models.sequences import LastToken, TokenEmbeddings, TokenEntry, TokenLayer
from ray_tl.models.stages import StagedBackbone

if TYPE_CHECKING:
    from transformers import GPT2Model


@BACKBONES.register("gpt2")
def gpt2(context: BackboneContext, *, weights: str = "gpt2", num_layers: int | None = None) -> StagedBackbone:
    """GPT-2: embeddings, one stage a layer, and the last token, the only one that has seen the whole text.

    Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; pooled as Radford et al., "Improving
    Language Understanding by Generative Pre-Training", 2018, sec. 3.2.

    Args:
        weights: A folder or a name on the hub, with the tokenizer that `data.tokenizer` names; or `none`.
        num_layers: Keep the first so many; all if left out.
    """
    from transformers import GPT2Config

    vocabulary = vocabulary_for("gpt2", context)
    untrained = GPT2Config(vocab_size=vocabulary.size, bos_token_id=None, eos_token_id=None)
    model = cast("GPT2Model", load_transformer("gpt2", weights, untrained, num_layers, context, ["gpt2"]))
    layers: list[nn.Module] = [TokenLayer(layer, causal=True) for layer in model.h]
    stages = [TokenEmbeddings(_WordAndPosition(model.wte, model.wpe), 0), *layers, LastToken(model.ln_f)]
    names = ["embeddings", *(f"layer{number}" for number in range(1, len(layers) + 1)), "last_token"]
    entry = TokenEntry(vocabulary)
    return StagedBackbone(stages, names, model.config.hidden_size, entry, architecture_of(model))


class _WordAndPosition(nn.Module):
    """Numbers of tokens [N, L] to the sum of two embeddings, [N, L, D]."""

    def __init__(self, words: nn.Embedding, positions: nn.Embedding) -> None:
        super().__init__()
        self.words, self.positions = words, positions

    def forward(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.words(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return embedded
