"""A model of texts as a version folder, and what it says of texts, tables and files."""

import hashlib
import json
import shutil

import pytest
import torch
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.data.tables import is_table
from ray_tl.data.text import load_text_preprocessing
from ray_tl.errors import BrokenBundle, InvalidInput
from ray_tl.models.transfer_model import build_transfer_model
from ray_tl.promotion.bundle import MANIFEST, TOKENIZER, ModelSpec, load_bundle, write_bundle
from ray_tl.promotion.predict import predict
from ray_tl.training.network import context_of
from tests.models.smallest import VECTORS_FILE
from tests.training.tiny_text import tiny_preprocessing

TEXTS = ["the film was great", "dull", "the battery was weak and more words than there is room for"]
BACKBONE = Component(name="tiny_bert", params={"hidden_size": 16, "num_layers": 1})


@pytest.fixture
def text_spec():
    return ModelSpec(backbone=BACKBONE, preprocessing=tiny_preprocessing(), classes=("bad", "good"))


@pytest.fixture
def text_model(text_spec):
    torch.manual_seed(0)
    return build_transfer_model(BACKBONE, 2, context_of(text_spec.preprocessing, load_weights=False)).eval()


@pytest.fixture
def text_folder(tmp_path, text_model, text_spec, lineage):
    return write_bundle(tmp_path / "reviews" / "v1", text_model, text_spec, lineage)


@pytest.fixture
def root(text_folder):
    return text_folder.parent.parent


def test_a_bundle_of_texts_holds_its_tokenizer_and_says_what_its_network_says(text_folder, text_model, text_spec):
    bundle = load_bundle(text_folder)
    assert bundle.spec == text_spec
    rows = torch.from_numpy(tiny_preprocessing().encode(TEXTS))
    expected = text_model(rows)[1].softmax(1).detach()
    answers = bundle.predict_images([text.encode() for text in TEXTS])
    assert_close(torch.tensor([list(answer.probabilities.values()) for answer in answers]), expected)


def test_a_bundle_of_word_vectors_needs_their_file_no_more(tmp_path, lineage):
    file = shutil.copy(VECTORS_FILE, tmp_path / "vectors.txt")
    preprocessing = load_text_preprocessing(str(file), 10)
    backbone = Component(name="word_vectors", params={"weights": str(file), "pooling": "mean_max"})
    model = build_transfer_model(backbone, 2, context_of(preprocessing, load_weights=True)).eval()
    spec = ModelSpec(
        backbone=backbone,
        architecture=model.backbone.architecture,
        preprocessing=preprocessing,
        classes=("bad", "good"),
    )
    write_bundle(tmp_path / "words" / "v1", model, spec, lineage)
    file.unlink()
    expected = model(torch.from_numpy(preprocessing.encode([*TEXTS, "zebra"])))[1].softmax(1).detach()
    answers = load_bundle(tmp_path / "words" / "v1").predict_images([text.encode() for text in [*TEXTS, "zebra"]])
    assert_close(torch.tensor([list(answer.probabilities.values()) for answer in answers]), expected)


def test_a_changed_tokenizer_is_refused(text_folder):
    (text_folder / TOKENIZER).write_text("{}")
    with pytest.raises(BrokenBundle, match=r"tokenizer\.json has 2 bytes"):
        load_bundle(text_folder)


def test_a_missing_tokenizer_is_refused_though_the_manifest_lacks_it_too(text_folder):
    manifest = json.loads((text_folder / MANIFEST).read_text())
    del manifest["files"][TOKENIZER]
    (text_folder / MANIFEST).write_text(json.dumps(manifest))
    (text_folder / TOKENIZER).unlink()
    with pytest.raises(BrokenBundle, match=r"tokenizer\.json is missing"):
        load_bundle(text_folder)


def test_a_tokenizer_does_not_belong_into_a_model_of_images(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][TOKENIZER] = {"sha256": hashlib.sha256(b"{}").hexdigest(), "size_bytes": 2}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / TOKENIZER).write_bytes(b"{}")
    with pytest.raises(BrokenBundle, match=r"tokenizer\.json does not belong there"):
        load_bundle(folder)


def test_tables_text_files_and_texts_are_predicted_in_their_order(root, tmp_path, text_folder):
    (tmp_path / "t.csv").write_text("review\nthe film was great\ndull\n")
    (tmp_path / "a.txt").write_text(TEXTS[2])
    answers = predict("reviews", [tmp_path / "t.csv", tmp_path / "a.txt"], root, ["fine"], "review")
    expected = load_bundle(text_folder).predict_images([text.encode() for text in [*TEXTS, "fine"]])
    assert [each.probabilities for each in answers] == [each.probabilities for each in expected]
    assert [each.name for each in answers] == [
        f"{tmp_path}/t.csv:1",
        f"{tmp_path}/t.csv:2",
        f"{tmp_path}/a.txt",
        "fine",
    ]


def test_empty_texts_are_named_at_once(root, tmp_path):
    (tmp_path / "t.csv").write_text('text\nfine\n""\n" "\n')
    with pytest.raises(
        InvalidInput, match=r"3 problems\n.*t\.csv:2 is empty\.\n.*t\.csv:3 is empty\.\n.*--text is empty"
    ):
        predict("reviews", [tmp_path / "t.csv"], root, ["  "])


def test_texts_without_anything_to_see_are_named_with_the_reason(root, tmp_path):
    (tmp_path / "a.txt").write_text("\u200b\ufeff\n")
    with pytest.raises(
        InvalidInput, match=r"a\.txt holds no visible character\.\n.*--text holds half of a surrogate pair"
    ):
        predict("reviews", [tmp_path / "a.txt"], root, ["\udce9"])  # as Python reads arguments that are not UTF-8


def test_images_are_refused_by_a_model_of_texts(root, tmp_path, images):
    (tmp_path / "a.png").write_bytes(images[0])
    with pytest.raises(InvalidInput, match="this model reads text, and was given images; give --text, tables or"):
        predict("reviews", [tmp_path / "a.png"], root)


def test_texts_are_refused_by_a_model_of_images(folder):
    with pytest.raises(InvalidInput, match="this model reads images, and was given text; give images"):
        predict("pets", [], folder.parent.parent, ["a cat"])


def test_an_image_among_texts_is_refused(root, tmp_path, images):
    (tmp_path / "a.png").write_bytes(images[0])
    assert not is_table("a.png")
    with pytest.raises(InvalidInput, match=r"a\.png is neither a table nor a \.txt file"):
        predict("reviews", [tmp_path / "a.png"], root, ["fine"])
