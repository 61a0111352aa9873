"""From a text to the row that a network takes: the same at training and at serving."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ray_tl.errors import InvalidInput
from ray_tl.tokens import PAD, Vocabulary, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNSEEN = "CZM"  # control and format characters, separators, marks that need a letter to stand on


class TextPreprocessing(BaseModel):
    """Tokenise as the pretrained tokenizer does, special tokens included, and cut what is too long.

    Attributes:
        max_length: Tokens of a text, special ones included.
        vocabulary: Of the tokenizer.
        tokenizer: In the format of the library `tokenizers`; kept in a file of its own beside this record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["text"] = "text"
    max_length: int = Field(ge=4)
    vocabulary: Vocabulary
    tokenizer: str = Field(default="", exclude=True, repr=False)

    def with_tokenizer(self, content: bytes) -> Self:
        """The same with the content of the tokenizer's file."""
        return self.model_copy(update={"tokenizer": content.decode()})

    def decode(self, data: bytes) -> NDArray[np.int32]:
        """A text in UTF-8 to its row, int32 [max_length].

        Raises:
            InvalidInput: If the bytes are no UTF-8, or there is no text in them.
        """
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(f"not a text in UTF-8 ({error}); send text.") from error
        if reason := why_no_text(text):
            raise InvalidInput(f"the text {reason}; send at least a word.")
        row: NDArray[np.int32] = self.encode([text])[0]
        return row

    def encode(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Token numbers, int32 [N, max_length], `PAD` after the end of each text."""
        rows = np.full((len(texts), self.max_length), PAD, dtype=np.int32)
        encodings = _tokenizer(self.tokenizer, self.max_length).encode_batch(list(texts))
        for row, encoding in zip(rows, encodings, strict=True):
            row[: len(encoding.ids)] = encoding.ids
        return rows


def why_no_text(text: str) -> str | None:
    """Why a string can't be read as a text, as the end of a sentence about it; `None` for a sound one."""
    if not text.strip():
        return "is empty"
    if half := next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None):
        return f"holds half of a surrogate pair (\\u{ord(half):04x}), which is no character"
    if all(unicodedata.category(letter)[0] in _UNSEEN for letter in text):
        return "holds no visible character"
    return None


def load_text_preprocessing(tokenizer: str, max_length: int) -> TextPreprocessing:
    """A pretrained tokenizer.

    Args:
        tokenizer: `minilm`, a folder, a name on the hub, or a file of word vectors.
        max_length: Tokens of a text, special ones included.

    Raises:
        InvalidInput: As `load_tokenizer`.
    """
    content, vocabulary = load_tokenizer(tokenizer)
    return TextPreprocessing(max_length=max_length, vocabulary=vocabulary, tokenizer=content)


@lru_cache(maxsize=4)
def _tokenizer(content: str, max_length: int) -> "Tokenizer":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer
