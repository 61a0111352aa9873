"""Texts as rows: numbers of tokens, and what a network must know of their vocabulary."""

import hashlib
import json
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ray_tl.errors import InvalidInput
from ray_tl.hub import model_folder
from ray_tl.word_vectors import UNKNOWN, WordVectors, is_vectors_file, read_word_vectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = -1
TOKENIZER_FILES = ("*.json", "*.txt", "*.model")


class Vocabulary(BaseModel):
    """What token numbers mean, as far as a network is concerned.

    Attributes:
        size: Numbers are in [0, size).
        special_ids: Of tokens that stand for no text, such as the beginning and the end.
        mask_id: Of the token that stands for a missing word.
        sha256: Of all tokens with their numbers: two vocabularies are the same if it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=1)
    special_ids: tuple[int, ...]
    mask_id: int = Field(ge=0)
    sha256: str


def mark_missing(tokens: Tensor, chosen: Tensor) -> Tensor:
    """Token numbers [N, L] with those that are `chosen` marked as missing; padding, and what is marked, stays.

    A mark keeps the number, as `PAD - 1 - number`: what must not go missing is known to the network alone.
    """
    return torch.where(chosen & (tokens >= 0), PAD - 1 - tokens, tokens)


def resolve_missing(tokens: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Token numbers [N, L] with marked ones replaced by that of the mask, special tokens by themselves."""
    numbers = torch.where(tokens < PAD, PAD - 1 - tokens, tokens)
    special = torch.isin(numbers, torch.tensor(vocabulary.special_ids, dtype=tokens.dtype, device=tokens.device))
    return torch.where((tokens < PAD) & ~special, vocabulary.mask_id, numbers)


def load_tokenizer(name: str, field: str = "data.tokenizer") -> tuple[str, Vocabulary]:
    """A tokenizer in the format of the library `tokenizers`, and its vocabulary.

    Args:
        name: `minilm`, a folder, a name on the hub, or a file of word vectors, whose words are the tokens.
        field: What was named, for messages.

    Raises:
        InvalidInput: If it can't be had, is none that the library `tokenizers` can run, or knows no token for a missing
            word; as `read_word_vectors`.
    """
    if is_vectors_file(name):
        return tokenizer_of_words(read_word_vectors(name, field))
    return _pretrained(name, field)


@lru_cache(maxsize=1)
def tokenizer_of_words(found: WordVectors) -> tuple[str, Vocabulary]:
    """A token for each word, punctuation apart; in lower case if the words are. What is unknown is missing."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(found.words)}, UNKNOWN))
    steps = [normalizers.NFC()] if found.is_cased else [normalizers.NFC(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    sha256 = hashlib.sha256("\n".join(found.words).encode()).hexdigest()
    return tokenizer.to_str(), Vocabulary(size=len(found.words), special_ids=(0,), mask_id=0, sha256=sha256)


@lru_cache(maxsize=4)
def _pretrained(name: str, field: str) -> tuple[str, Vocabulary]:
    from transformers import AutoTokenizer  # seconds

    folder = model_folder(name, TOKENIZER_FILES, field)
    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{field}={name!r} holds no tokenizer ({error}); name one with a tokenizer.json.") from error
    if not loaded.is_fast:
        raise InvalidInput(f"{field}={name!r} has no fast form; convert it to a tokenizer.json, or choose another.")
    return loaded.backend_tokenizer.to_str(), _vocabulary(f"{field}={name!r}", loaded)


def _vocabulary(stated: str, loaded: "PreTrainedTokenizerBase") -> Vocabulary:
    stand_ins = (loaded.mask_token_id, loaded.unk_token_id, loaded.eos_token_id)
    mask = next((number for number in stand_ins if number is not None), None)
    if mask is None:
        raise InvalidInput(f"{stated} knows no token for a missing word, an unknown one or the end; choose another.")
    words = json.dumps(loaded.get_vocab(), sort_keys=True).encode()
    return Vocabulary(
        size=max(loaded.get_vocab().values()) + 1,
        special_ids=tuple(sorted(set(loaded.all_special_ids))),
        mask_id=mask,
        sha256=hashlib.sha256(words).hexdigest(),
    )
