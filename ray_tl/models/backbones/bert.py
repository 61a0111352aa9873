"""Bidirectional transformers that read texts: BERT and its kin, by transformers, imported inside the functions."""

from typing import TYPE_CHECKING, Literal, cast

from torch import nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones.common import BACKBONES, BackboneContext
from ray_tl.models.backbones.transformer_texts import architecture_of, load_transformer, vocabulary_for
from ray_tl.models.sequences import FirstToken, MeanOfTokens, TokenEmbeddings, TokenEntry, TokenLayer
from ray_tl.models.stages import StagedBackbone

if TYPE_CHECKING:
    from transformers import BertModel, PretrainedConfig, PreTrainedModel

Pooling = Literal["mean", "cls"]


@BACKBONES.register("bert", ranges={"pooling": {"choice": ["mean", "cls"]}})
def bert(
    context: BackboneContext,
    *,
    weights: str = "bert-base-uncased",
    num_layers: int | None = None,
    pooling: Pooling = "mean",
) -> StagedBackbone:
    """BERT: embeddings, one stage a layer, pooling; Devlin et al., 2018, https://arxiv.org/abs/1810.04805.

    Args:
        weights: A folder or a name on the hub (`bert-base-chinese`), with the tokenizer that `data.tokenizer` names;
            or `none`, for the shape of BERT-base.
        num_layers: Keep the first so many; all if left out.
        pooling: Of the last hidden states: their mean, or `cls`, the first.
    """
    from transformers import BertConfig

    untrained = BertConfig(vocab_size=vocabulary_for("bert", context).size)
    return _encoder(load_transformer("bert", weights, untrained, num_layers, context, ["bert"]), context, pooling)


@BACKBONES.register("roberta", ranges={"pooling": {"choice": ["mean", "cls"]}})
def roberta(
    context: BackboneContext,
    *,
    weights: str = "roberta-base",
    num_layers: int | None = None,
    pooling: Pooling = "mean",
) -> StagedBackbone:
    """RoBERTa: embeddings, one stage a layer, pooling; Liu et al., 2019, https://arxiv.org/abs/1907.11692.

    Args:
        weights: A folder or a name on the hub (`xlm-roberta-base`), or `none`; as `bert`.
        num_layers: As `bert`.
        pooling: As `bert`.
    """
    from transformers import RobertaConfig

    untrained = RobertaConfig(vocab_size=vocabulary_for("roberta", context).size, max_position_embeddings=514)
    kinds = ["roberta", "xlm-roberta", "camembert"]
    return _encoder(load_transformer("roberta", weights, untrained, num_layers, context, kinds), context, pooling)


@BACKBONES.register("minilm", ranges={"pooling": {"choice": ["mean", "cls"]}})
def minilm(
    context: BackboneContext,
    *,
    weights: str = "minilm",
    num_layers: int | None = None,
    pooling: Pooling = "mean",
) -> StagedBackbone:
    """all-MiniLM-L6-v2 in eight stages, 22.6 million parameters, with weights from an installed package.

    Wang et al., "MiniLM", 2020, https://arxiv.org/abs/2002.10957, fine-tuned for sentence similarity by
    sentence-transformers; without the normalisation to length 1 that follows there.

    Args:
        weights: `minilm` (packaged, no download), a folder, or `none`.
        num_layers: As `bert`.
        pooling: As `bert`; it was trained with `mean`.
    """
    size = vocabulary_for("minilm", context).size
    untrained = _small_config(size, hidden_size=384, num_layers=6, num_heads=12)
    return _encoder(load_transformer("minilm", weights, untrained, num_layers, context, ["bert"]), context, pooling)


@BACKBONES.register("tiny_bert", ranges={"hidden_size": {"choice": [32, 64]}})
def tiny_bert(context: BackboneContext, *, hidden_size: int = 32, num_layers: int = 2) -> StagedBackbone:
    """A BERT of two narrow layers without pretrained weights, for tests.

    Args:
        hidden_size: D, a multiple of 4.
        num_layers: At least 1.
    """
    if hidden_size < 4 or hidden_size % 4:
        raise InvalidInput(f"tiny_bert.hidden_size={hidden_size} is not a multiple of 4; choose one, such as 32.")
    if num_layers < 1:
        raise InvalidInput(f"tiny_bert.num_layers={num_layers} is out of range; choose 1 or more.")
    untrained = _small_config(vocabulary_for("tiny_bert", context).size, hidden_size, num_layers, num_heads=4)
    return _encoder(load_transformer("tiny_bert", "none", untrained, None, context, ["bert"]), context, "mean")


def _small_config(vocabulary_size: int, hidden_size: int, num_layers: int, num_heads: int) -> "PretrainedConfig":
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
    )


def _encoder(loaded: "PreTrainedModel", context: BackboneContext, pooling: Pooling) -> StagedBackbone:
    """Stages of a network built like BERT; its own pooling layer, trained for another task, is left out."""
    model = cast("BertModel", loaded)
    layers: list[nn.Module] = [TokenLayer(layer) for layer in model.encoder.layer]
    pool = MeanOfTokens() if pooling == "mean" else FirstToken()
    stages = [TokenEmbeddings(model.embeddings, model.config.pad_token_id or 0), *layers, pool]
    names = ["embeddings", *(f"layer{number}" for number in range(1, len(layers) + 1)), "pool"]
    entry = TokenEntry(vocabulary_for("encoder", context))
    return StagedBackbone(stages, names, model.config.hidden_size, entry, architecture_of(model))
