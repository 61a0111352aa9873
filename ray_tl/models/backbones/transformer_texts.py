"""What every transformer that reads texts shares: its configuration, its weights, and what of it fits the texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ray_tl.errors import InvalidInput
from ray_tl.hub import model_folder
from ray_tl.models.backbones.common import BackboneContext, WrongModality, quiet_transformers
from ray_tl.tokens import TOKENIZER_FILES, Vocabulary, load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

NONE = "none"
WEIGHT_FILES = ("*.json", "*.safetensors")
OWN_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model")
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "embd_pdrop", "resid_pdrop", "attn_pdrop")


def vocabulary_for(name: str, context: BackboneContext) -> Vocabulary:
    """That of the texts; raises `InvalidInput` if the rows are images."""
    if context.vocabulary is None:
        raise WrongModality(name, "text", context)
    return context.vocabulary


def load_transformer(
    name: str,
    weights: str,
    untrained: "PretrainedConfig",
    num_layers: int | None,
    context: BackboneContext,
    kinds: Sequence[str],
) -> "PreTrainedModel":
    """A transformer without dropout, of its first layers alone if so many are asked for.

    Without dropout, a trial is the same on any number of workers.

    Args:
        name: Of the backbone, for messages.
        weights: A folder, a name on the hub, `minilm`, or `none`.
        untrained: What the network looks like where `weights` is `none`.
        num_layers: To keep, from the input on; all if left out.
        context: Of the backbone.
        kinds: The values of `model_type` that this backbone can be.

    Raises:
        InvalidInput: If the weights can't be had or are those of another network, or texts and network don't fit:
            another vocabulary, or texts longer than its positions.
    """
    config = _config(name, weights, untrained, context, kinds)
    if num_layers is not None:
        _require_layers(name, num_layers, config.num_hidden_layers)
        config.num_hidden_layers = num_layers
    for dropout in DROPOUTS:
        if hasattr(config, dropout):
            setattr(config, dropout, 0.0)
    _require_fit(name, weights, config, context)
    load = context.load_weights and weights != NONE
    with quiet_transformers():
        return _pretrained(name, weights, config) if load else _random(config)


def architecture_of(model: "PreTrainedModel") -> dict[str, object]:
    """The configuration of a network, as JSON values."""
    stated: dict[str, object] = model.config.to_diff_dict()
    return {**stated, "model_type": model.config.model_type}


def _config(
    name: str, weights: str, untrained: "PretrainedConfig", context: BackboneContext, kinds: Sequence[str]
) -> "PretrainedConfig":
    from transformers import AutoConfig

    if context.architecture is not None:
        recorded = dict(context.architecture)
        return AutoConfig.for_model(str(recorded.pop("model_type")), **recorded)
    if weights == NONE:
        return untrained
    folder = _folder(name, weights, TOKENIZER_FILES)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{name}.weights={weights!r} holds no network ({error}); name another folder.") from error
    if config.model_type not in kinds:
        raise InvalidInput(
            f"{name}.weights={weights!r} holds a network of the kind {config.model_type!r}, and {name!r} is "
            f"{' or '.join(kinds)}; choose the backbone of that kind."
        )
    return config


def _folder(name: str, weights: str, files: Sequence[str]) -> str:
    return str(model_folder(weights, files, f"{name}.weights"))


def _require_layers(name: str, num_layers: int, available: int) -> None:
    if not 1 <= num_layers <= available:
        raise InvalidInput(f"{name}.num_layers={num_layers} is out of range; choose 1..{available}.")


def _require_fit(name: str, weights: str, config: "PretrainedConfig", context: BackboneContext) -> None:
    vocabulary = vocabulary_for(name, context)
    if vocabulary.size > config.vocab_size or _has_other_tokenizer(name, weights, vocabulary, context):
        raise InvalidInput(
            f"data.tokenizer is not that of {name!r} with weights {weights!r}: its tokens have other numbers; "
            f"set data.tokenizer: {weights}, or choose other weights."
        )
    positions = config.max_position_embeddings - (config.pad_token_id + 1 if "roberta" in config.model_type else 0)
    if context.max_length > positions:
        raise InvalidInput(
            f"data.max_length={context.max_length} is more than {name!r} has positions; choose {positions} or less."
        )


def _has_other_tokenizer(name: str, weights: str, vocabulary: Vocabulary, context: BackboneContext) -> bool:
    if weights == NONE or context.architecture is not None:
        return False
    folder = model_folder(weights, TOKENIZER_FILES, f"{name}.weights")
    if not any((folder / file).is_file() for file in OWN_TOKENIZER):
        return False
    return load_tokenizer(weights, f"{name}.weights")[1].sha256 != vocabulary.sha256


def _random(config: "PretrainedConfig") -> "PreTrainedModel":
    from transformers import AutoModel

    return AutoModel.from_config(config, attn_implementation="sdpa")


def _pretrained(name: str, weights: str, config: "PretrainedConfig") -> "PreTrainedModel":
    from transformers import AutoModel

    folder = _folder(name, weights, WEIGHT_FILES)
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            config=config,
            attn_implementation="sdpa",
            dtype=torch.get_default_dtype(),
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidInput(f"{name}.weights={weights!r} can't be loaded ({error}); name another folder.") from error
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing or report["mismatched_keys"]:
        raise InvalidInput(
            f"{name}.weights={weights!r} lacks {len(missing) + len(report['mismatched_keys'])} tensors of the network "
            f"({', '.join(map(str, missing[:5]))}); name a folder that holds all of them."
        )
    return model
