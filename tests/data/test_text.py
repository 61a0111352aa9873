"""From texts to rows: as the pretrained tokenizer has it, and the same when it comes back from a file."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.data.augmentation import augmentation_for
from ray_tl.data.augmentation.words import WordDropout
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.text import TextPreprocessing, load_text_preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.hub import model_folder
from ray_tl.promotion.bundle import ModelSpec
from ray_tl.tokens import PAD, mark_missing, resolve_missing
from tests.training.tiny_text import tiny_preprocessing

TEXTS = ["A great film!", "é 好 [MASK] " + "endless " * 40, "x"]


def test_token_numbers_are_those_of_the_pretrained_tokenizer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder("minilm", (), "tokenizer"))
    expected = tokenizer(TEXTS, truncation=True, max_length=16, padding="max_length", return_tensors="np")
    rows = load_text_preprocessing("minilm", 16).encode(TEXTS)
    np.testing.assert_array_equal(rows != PAD, expected["attention_mask"] == 1)
    np.testing.assert_array_equal(np.where(rows == PAD, tokenizer.pad_token_id, rows), expected["input_ids"])


def test_a_text_as_bytes_has_the_row_of_the_text():
    row = tiny_preprocessing().decode(b"the film was great")
    assert row.tolist() == [2, 11, 12, 15, 8, 3, PAD, PAD, PAD, PAD]  # numbers of tests.training.tiny_text.WORDS


@pytest.mark.parametrize(("data", "said"), [(b"\xff\xfe", "not a text in UTF-8"), (b" \n", "the text is empty")])
def test_bytes_that_are_no_text_are_refused(data, said):
    with pytest.raises(InvalidInput, match=said):
        tiny_preprocessing().decode(data)


def test_a_record_and_the_tokenizers_file_give_the_preprocessing_again():
    before = tiny_preprocessing()
    record = before.model_dump_json()
    assert len(record) < 300 < len(before.tokenizer)
    assert TextPreprocessing.model_validate_json(record).with_tokenizer(before.tokenizer.encode()) == before


@pytest.mark.parametrize("preprocessing", [Preprocessing(image_size=32), tiny_preprocessing()])
def test_a_spec_tells_images_from_texts(preprocessing):
    spec = ModelSpec(backbone=Component(name="any"), preprocessing=preprocessing, classes=("a", "b"))
    assert type(ModelSpec.model_validate_json(spec.model_dump_json()).preprocessing) is type(preprocessing)


def test_a_spec_from_before_there_were_texts_is_one_of_images():
    old = '{"backbone": {"name": "resnet18"}, "preprocessing": {"image_size": 64, "channels": 1}, "classes": ["a"]}'
    assert ModelSpec.model_validate_json(old).preprocessing == Preprocessing(
        image_size=64, channels=1, reader_version=1
    )


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match=r"data\.tokenizer='.*' holds no tokenizer"):
        load_text_preprocessing(str(tmp_path), 16)


def test_a_missing_folder_is_named():
    with pytest.raises(InvalidInput, match=r"data\.tokenizer='/no/such/folder' is no folder; give the path of one"):
        load_text_preprocessing("/no/such/folder", 16)


# word dropout


def tokens(rows: int = 6) -> torch.Tensor:
    return torch.from_numpy(tiny_preprocessing().encode(["the film was great the plot"] * rows))


def dropped(rate: float, seed: int = 0, rows: int = 6) -> torch.Tensor:
    changed = WordDropout(rate=rate).augment(tokens(rows), torch.Generator().manual_seed(seed))
    return resolve_missing(changed, tiny_preprocessing().vocabulary)


def test_about_so_many_words_are_masked_and_nothing_else_changes():
    before, after = tokens(500), dropped(0.3, rows=500)
    words = before[:, 1:7]
    masked = after[:, 1:7] == 4
    assert masked.double().mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(after[:, 1:7][~masked], words[~masked])
    assert torch.equal(after[:, [0, 7, 8, 9]], before[:, [0, 7, 8, 9]])


@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 6), slice(1, None, 2)])
def test_a_part_of_the_batch_is_changed_as_in_the_whole(rows):
    whole = WordDropout(rate=0.4).augment(tokens(), torch.Generator().manual_seed(0))
    part = WordDropout(rate=0.4).augment(tokens()[rows], torch.Generator().manual_seed(0), rows=rows, total=6)
    assert torch.equal(part, whole[rows])


def test_leaving_words_out_twice_keeps_both():
    first, second = torch.rand(6, 10) < 0.3, torch.rand(6, 10) < 0.3
    vocabulary = tiny_preprocessing().vocabulary
    twice = resolve_missing(mark_missing(mark_missing(tokens(), first), second), vocabulary)
    assert_close(twice, resolve_missing(mark_missing(tokens(), first | second), vocabulary), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "modality"), [("word_dropout", "images"), ("affine", "text"), ("strong", "text")])
def test_an_augmentation_of_the_other_modality_is_refused(name, modality):
    with pytest.raises(InvalidInput, match=rf"augmentation '{name}' changes .* and data.modality is '{modality}'"):
        augmentation_for(Component(name=name), modality)


def test_too_high_a_rate_is_refused():
    with pytest.raises(InvalidInput, match=r"augmentation\.rate=0\.95 is out of range; choose 0\.\.0\.9"):
        WordDropout(rate=0.95)
