"""Word vectors from a file as a backbone: no network at all, and often a strong one on few short texts."""

from typing import Literal

import torch
from torch import Tensor, nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones.common import BACKBONES, BackboneContext
from ray_tl.models.backbones.transformer_texts import vocabulary_for
from ray_tl.models.sequences import MaxOfTokens, MeanAndMaxOfTokens, MeanOfTokens, TokenEmbeddings, TokenEntry
from ray_tl.models.stages import StagedBackbone
from ray_tl.tokens import Vocabulary, tokenizer_of_words
from ray_tl.word_vectors import WordVectors, read_word_vectors

NAME = "word_vectors"
UNKNOWN_ID = 0
Pooling = Literal["mean", "max", "mean_max"]
POOLS: dict[Pooling, type[nn.Module]] = {"mean": MeanOfTokens, "max": MaxOfTokens, "mean_max": MeanAndMaxOfTokens}


@BACKBONES.register(NAME, ranges={"pooling": {"choice": ["mean", "max", "mean_max"]}})
def word_vectors(context: BackboneContext, *, weights: str, pooling: Pooling = "mean") -> StagedBackbone:
    """Word vectors from a file of yours, pooled over the words of each text: word2vec, fastText or GloVe.

    Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", 2015,
    https://aclanthology.org/P15-1162, eq. 1; the deep part is a search's choice of `adaptor`.

    Two stages, the vectors and the pooling. They are meant to stay frozen (`freeze_depth: head_only`): words of the
    target that the source lacks would stay where they are while others move. Words that the file lacks count nothing,
    and a text without any known word is all zeros. Only the first 200,000 words of the file are read; a checkpoint and
    a promoted version hold them all, so that the file is needed for training alone.

    Args:
        weights: The file, in text, compressed by gzip or not: lines of a word and its numbers. `data.tokenizer` must
            name the same file.
        pooling: Over the words of a text: `mean`, `max`, or `mean_max`, both side by side.
    """
    vocabulary = vocabulary_for(NAME, context)
    embeddings = nn.Embedding.from_pretrained(_weight(weights, vocabulary, context), False, padding_idx=UNKNOWN_ID)
    width = embeddings.embedding_dim
    stages = [TokenEmbeddings(embeddings, UNKNOWN_ID), POOLS[pooling]()]
    feature_dim = 2 * width if pooling == "mean_max" else width
    return StagedBackbone(stages, ["embeddings", "pool"], feature_dim, TokenEntry(vocabulary), {"width": width})


def _weight(weights: str, vocabulary: Vocabulary, context: BackboneContext) -> Tensor:
    """[N, D]: a copy, as it may be trained; zeros in the place of what is loaded later."""
    if context.architecture is not None:
        width = context.architecture["width"]
        assert isinstance(width, int)
        return torch.zeros(vocabulary.size, width)
    vectors = _fitting(weights, vocabulary).vectors
    if context.load_weights:
        return torch.tensor(vectors, dtype=torch.get_default_dtype())
    return torch.zeros(vectors.shape)


def _fitting(weights: str, vocabulary: Vocabulary) -> WordVectors:
    found = read_word_vectors(weights, f"{NAME}.weights")
    if tokenizer_of_words(found)[1].sha256 != vocabulary.sha256:
        raise InvalidInput(
            f"data.tokenizer is not that of {NAME!r} with weights {weights!r}: its tokens have other numbers; "
            f"set data.tokenizer: {weights}, or choose other weights."
        )
    return found
