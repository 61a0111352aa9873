"""A CLIP small enough for a test, in a folder as `save_pretrained` writes it, with a tokenizer."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

WORDS = ["a", "photo", "of", "drawing", "the", "cat", "dog", "eel", "b", "c", "red", "fox"]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def save_tiny_clip(folder: Path, channels: int = 3, image_size: int = 16) -> Path:
    """Random weights, always the same; patches of half the images."""
    torch.manual_seed(5)
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    spread = {"initializer_range": 0.5, "initializer_factor": 5.0}  # features that differ between images
    text = {**layers, **spread, "vocab_size": 20, "max_position_embeddings": 12, "projection_dim": 4}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    vision = {**layers, **spread, "image_size": image_size, "patch_size": image_size // 2, "num_channels": channels}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([*SPECIAL.values(), *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=12, **SPECIAL)


@cache
def tiny_clip(channels: int = 3, image_size: int = 16) -> str:
    """One folder a process."""
    return str(save_tiny_clip(Path(tempfile.mkdtemp()), channels, image_size))
