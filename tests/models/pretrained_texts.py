"""Folders of small transformers with random weights and the tokenizer of the tests, as transformers writes them."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from tests.training.tiny_text import WORDS, tiny_tokenizer

SMALL = {"vocab_size": len(WORDS), "num_hidden_layers": 3, "num_attention_heads": 4, "pad_token_id": 0}
CONFIGS: dict[str, dict] = {
    "bert": {**SMALL, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 16},
    "roberta": {**SMALL, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 18},
    "gpt2": {"vocab_size": len(WORDS), "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 16},
}


def write_transformer(folder: Path, kind: str) -> PreTrainedModel:
    """Write a network of `kind` with its tokenizer; gives the network, as transformers has it, to be evaluated."""
    write_network(folder, kind)
    write_tokenizer(folder)
    return AutoModel.from_pretrained(folder).eval()


def write_network(folder: Path, kind: str, **changes: object) -> None:
    """Without a tokenizer; `changes` go into its configuration."""
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **{**CONFIGS[kind], **changes})).save_pretrained(folder)


def write_tokenizer(folder: Path) -> None:
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), mask_token="[MASK]", **special)
    tokenizer.save_pretrained(folder)
