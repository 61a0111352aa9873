"""A pair of tiny domains of texts, and trials on them small enough for a test."""

from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ray_tl.config import TrialConfig
from ray_tl.data.domains import DomainPair, LabelledDomain, UnlabelledDomain
from ray_tl.data.text import TextPreprocessing
from ray_tl.tokens import Vocabulary
from ray_tl.training.data import TrialData

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLASSES = ("bad", "good")
JUDGING = (("awful", "dull", "weak"), ("great", "fine", "brave"))
FILM, PRODUCT = ("the", "film", "plot", "actor", "was", "scene"), ("the", "phone", "battery", "box", "was", "cable")
WORDS = (*SPECIAL, *JUDGING[0], *JUDGING[1], *dict.fromkeys([*FILM, *PRODUCT]))
MAX_LENGTH = 10


def tiny_tokenizer() -> Tokenizer:
    """One token a word, in the frame that BERT's tokenizer puts around a text."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


@cache
def tiny_preprocessing() -> TextPreprocessing:
    vocabulary = Vocabulary(size=len(WORDS), special_ids=(0, 1, 2, 3, 4), mask_id=4, sha256="of the test")
    return TextPreprocessing(max_length=MAX_LENGTH, vocabulary=vocabulary, tokenizer=tiny_tokenizer().to_str())


def tiny_text_pair(num_source: int = 24, num_target: int = 30, num_labelled: int = 0) -> DomainPair:
    """Two classes, told apart by the words that judge; the rest of the words are others in the target."""
    source, holdout = _labelled("source", num_source, FILM, 0), _labelled("source", 12, FILM, 1)
    target, test = _unlabelled(num_target, 2), _unlabelled(6, 3)
    few = _labelled("target", num_labelled, PRODUCT, 4) if num_labelled else None
    return DomainPair(source, holdout, target, tiny_preprocessing(), test, few)


def tiny_text_data(pair: DomainPair | None = None) -> TrialData:
    return TrialData(pair or tiny_text_pair(), torch.device("cpu"))


def tiny_text_config(**changes: object) -> TrialConfig:
    """Four epochs of three steps on a BERT of four stages."""
    fields = {"backbone": {"tiny_bert": {"hidden_size": 16, "num_layers": 2}}, "batch_size": 8, "epochs": 4, "seed": 3}
    return TrialConfig.model_validate({**fields, **changes})


def sentences(labels: np.ndarray, words: tuple[str, ...], seed: int) -> list[str]:
    """One text for each label, of three to seven words."""
    random = np.random.default_rng(seed)
    texts = []
    for label in labels:
        filling = random.choice(words, random.integers(2, 6)).tolist()
        texts.append(" ".join([*filling, str(random.choice(JUDGING[label]))]))
    return texts


def _labelled(name: str, rows: int, words: tuple[str, ...], seed: int) -> LabelledDomain:
    labels = np.arange(rows) % len(CLASSES)
    inputs = tiny_preprocessing().encode(sentences(labels, words, seed))
    return LabelledDomain(name, inputs, _ids(rows), labels.astype(np.int64), CLASSES)


def _unlabelled(rows: int, seed: int) -> UnlabelledDomain:
    labels = np.random.default_rng(seed).choice(2, rows, p=[0.6, 0.4])
    inputs = tiny_preprocessing().encode(sentences(labels, PRODUCT, seed))
    return UnlabelledDomain("target", inputs, _ids(rows))


def _ids(rows: int) -> tuple[str, ...]:
    return tuple(f"row-{row}" for row in range(rows))
