"""Word vectors from files as word2vec, fastText and GloVe write them, and features against NumPy by hand."""

import gzip
import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.ensemble import RandomForestClassifier
from torch.testing import assert_close

from ray_tl import word_vectors
from ray_tl.config import Component
from ray_tl.data.domains import DomainPair, LabelledDomain, UnlabelledDomain
from ray_tl.data.text import load_text_preprocessing
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BackboneContext, build_backbone, dimensions, is_pretrained
from ray_tl.models.stages import StagedBackbone
from ray_tl.randomness import derive_seed
from ray_tl.search_space import load_search_file
from ray_tl.tokens import load_tokenizer, mark_missing
from ray_tl.training.closed_form import ClosedFormRun
from ray_tl.word_vectors import UNKNOWN, is_vectors_file, read_word_vectors
from tests.models.smallest import VECTORS_FILE
from tests.training.tiny import RULE
from tests.training.tiny_text import CLASSES, FILM, PRODUCT, sentences, tiny_text_config, tiny_text_data

VECTORS = {"the": [0.5, -1.0, 0.25], "film": [-0.125, 2e-1, 3.0], "naïve": [1.0, 0.0, -0.5], "don": [7.0, -2.5, 1.0]}
BODY = "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in VECTORS.items())
TEXTS = ["The film, the FILM!", "zebra the zebra zebra film", "zebra", "don't"]
KNOWN = [["the", "film", "the", "film"], ["the", "film"], [], ["don"]]  # words of TEXTS that have a vector
EXACT = {"rtol": 0, "atol": 0}


def write(folder: Path, content: str | bytes, name: str = "vectors.txt") -> str:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder / name)


def read(folder: Path, content: str | bytes, name: str = "vectors.txt") -> dict[str, list[float]]:
    found = read_word_vectors(write(folder, content, name), "weights")
    assert (found.words[0], found.vectors[0].any(), found.vectors.dtype) == (UNKNOWN, False, np.float32)
    return dict(zip(found.words[1:], found.vectors[1:].tolist(), strict=True))


def build(path: str, max_length: int = 12, **params: object) -> tuple[StagedBackbone, torch.Tensor]:
    """The backbone, and the rows of TEXTS."""
    preprocessing = load_text_preprocessing(path, max_length)
    component = Component.model_validate({"name": "word_vectors", "params": {"weights": path, **params}})
    backbone = build_backbone(component, BackboneContext(vocabulary=preprocessing.vocabulary, max_length=max_length))
    return backbone, torch.from_numpy(preprocessing.encode(TEXTS))


@pytest.fixture
def path(tmp_path):
    return write(tmp_path, BODY)


# files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("glove.txt", BODY),
        ("word2vec.txt", f"4 3\n{BODY}"),
        ("fasttext.vec", "4 3\n" + BODY.replace("\n", " \n")),  # ends lines with a space
        ("tabs.txt", BODY.replace(" ", "\t").replace("\n", "\r\n")),
        ("wrong_count.vec", f"1999995 3\n{BODY}"),
        ("without_suffix", f"\ufeff{BODY}\n\n \n"),
        ("two_spaces.txt", BODY.replace(" ", "  ")),
        ("packed.vec.gz", gzip.compress(f"4 3\n{BODY}".encode(), mtime=0)),
    ],
)
def test_each_format_gives_the_same_words_and_vectors(tmp_path, name, content):
    assert read(tmp_path, content, name) == {word: np.float32(vector).tolist() for word, vector in VECTORS.items()}


def test_numbers_are_those_of_numpy_in_any_notation_and_number(tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "_LINES", 7)  # lines are parsed in parts
    numbers = np.random.default_rng(0).normal(scale=1e-3, size=(50, 20))
    lines = [f"w{row} {' '.join(f'{number:.{5 + row % 9}g}' for number in numbers[row])}" for row in range(50)]
    expected = np.loadtxt([line.split(" ", 1)[1] for line in lines], dtype=np.float32)
    found = read(tmp_path, "\n".join(lines))
    assert_array_equal(np.float32(list(found.values())), expected)
    assert list(found) == [f"w{row}" for row in range(50)]


def test_words_may_hold_whatever_is_no_space_and_glove_has_some_with_spaces(tmp_path):
    words = [". . .", "at name@domain.com", "1\u00a01/2", "\u0085", "2000", '"', "#", "日本"]
    assert list(read(tmp_path, "a 1 2\n" + "".join(f"{word} 1 2\n" for word in words))) == ["a", *words]


def test_the_first_of_words_that_are_there_twice_counts_and_words_no_text_can_hold_are_left_out(tmp_path):
    content = b"a 1 2\na 3 4\nb\xff 5 6\n 5 6\ne\xcc\x81 7 8\n\xc3\xa9 9 9\n[UNK] 4 4\n"  # é in two ways
    assert read(tmp_path, content) == {"a": [1, 2], "é": [7, 8]}


def test_the_most_frequent_words_are_read_and_nothing_behind_them(tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "MAX_WORDS", 2)
    assert list(read(tmp_path, "a 1 2\na 1 2\nb 3 4\nc is broken, and never seen\n")) == ["a", "b"]


def test_a_file_is_parsed_once_until_it_changes(path, tmp_path):
    first = read_word_vectors(path, "data.tokenizer")
    assert read_word_vectors(path, "word_vectors.weights") is first
    write(tmp_path, "new 1 2\n")
    os.utime(path, ns=(1, 1))
    assert read_word_vectors(path, "data.tokenizer").words == (UNKNOWN, "new")
    assert load_tokenizer(path)[1].size == 2


BINARY = b"2 3\nthe " + struct.pack("3f", 0.5, 1, 2) + b"\nof " + struct.pack("3f", 0.5, 1, 2) + b"\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "vectors.txt holds no word; a line is a word and its numbers"),
        ("3 2\n\n", "vectors.txt holds no word; a line is a word and its numbers"),
        ("a 1 2\nb 1 x\n", r"line 2 has 'x' where a number should be; a line is .* Mend or delete the line"),
        ("<html>\n", "line 1 has 0 numbers behind its word, and not 1"),
        ("not vectors\n", "line 1 has 'vectors' where a number should be"),
        ("a 1 2\nb 1 2\nc 1", "line 3 has 1 numbers behind its word, and not 2"),  # cut short
        ("a 1 2\nb 1 2 3\n", "line 2 has 3 numbers behind its word, and not 2"),
        ("1 4\na 1 2\n", "line 2 has 2 numbers behind its word, and not 4"),
        ("a 1 2\nb nan 2\n", "line 2 holds a number that is not finite"),
        ("a 1 2\nb 1 1e99\n", "line 2 holds a number that is not finite"),
        (BINARY, r"is binary, and .*KeyedVectors.load_word2vec_format\(FILE, binary=True\).save_word2vec_format"),
        (gzip.compress(BODY.encode(), mtime=0)[:-9], "can't be read to its end .* copy or download it again"),
    ],
)
def test_a_broken_file_is_refused_by_line_with_a_remedy(tmp_path, content, said):
    with pytest.raises(InvalidInput, match=said):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "said"), [("gone.vec", "is no file"), (".", "is a folder; give the path of the file")]
)
def test_what_is_no_file_is_refused_with_its_field(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=f"word_vectors.weights='{name}' {said}"):
        read_word_vectors(name, "word_vectors.weights")


def test_a_tokenizer_that_looks_like_a_file_is_not_sought_on_the_hub():
    with pytest.raises(InvalidInput, match=r"data\.tokenizer='vectors\.txt' is no file"):
        load_tokenizer("vectors.txt")
    assert not is_vectors_file("bert-base-chinese")


# texts


@pytest.mark.parametrize(
    ("words", "text", "tokens"),
    [
        (["the", "film"], "The FILM", [1, 2]),
        (["the", "Film"], "The Film film", [0, 2, 0]),  # case tells words apart
        (["the", "film", "!"], "the(film)!!?", [1, 0, 2, 0, 3, 3, 0]),
        (["é"], "e\u0301 É", [1, 1]),  # one character or two
        (["the"], "the\u00a0the\u3000the\tthe", [1, 1, 1, 1]),
        (["电影"], "电影", [1]),
    ],
)
def test_texts_are_cut_at_white_space_and_punctuation_and_in_lower_case_if_the_words_are(tmp_path, words, text, tokens):
    path = write(tmp_path, "".join(f"{word} 1 2\n" for word in words))
    assert load_text_preprocessing(path, 16).encode([text])[0][: len(tokens)].tolist() == tokens


def test_a_stray_capital_in_a_file_of_lower_case_does_not_hide_all_words_of_texts(tmp_path):
    path = write(tmp_path, "".join(f"w{number} 1 2\n" for number in range(150)) + "İ 1 2\n")
    assert load_text_preprocessing(path, 4).encode(["W0"])[0][0] == 1


# features


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_max"])
def test_features_are_numpys_over_the_vectors_of_known_words_alone(path, pooling):
    backbone, rows = build(path, pooling=pooling)
    known = [np.array([VECTORS[word] for word in words]) if words else np.zeros((1, 3)) for words in KNOWN]
    pooled = {"mean": [rows.mean(0) for rows in known], "max": [rows.max(0) for rows in known]}
    pooled["mean_max"] = np.hstack([pooled["mean"], pooled["max"]])
    features = backbone(backbone.entry(rows)).detach().numpy()
    assert_allclose(features, pooled[pooling], rtol=1e-6)
    assert features.shape == (len(TEXTS), backbone.feature_dim)


def test_a_missing_word_counts_as_little_as_an_unknown_one(path):
    backbone, rows = build(path)
    marked = mark_missing(rows, torch.tensor([[True, False]]).expand(4, 2).repeat(1, 6))  # every other token
    left = np.array([VECTORS["film"], VECTORS["the"]])  # of the first text; of the second "the" alone
    expected = [left.mean(0), left[1], np.zeros(3), np.zeros(3)]
    assert_allclose(backbone(backbone.entry(marked)).detach(), expected, rtol=1e-6)


def test_the_backbone_splits_exactly_also_through_a_cache_with_unknown_words_before_known_ones(path):
    backbone, rows = build(path, pooling="mean_max")
    whole = backbone(backbone.entry(rows))
    for depth in (1, 2):
        kept = backbone.entry.suspend(backbone(backbone.entry(rows), stop=depth), rows)
        assert_close(backbone(backbone.entry.resume(kept), start=depth), whole, **EXACT)


def test_vectors_that_train_leave_that_of_unknown_words_and_the_file_as_they_are(path):
    backbone, rows = build(path)
    backbone.freeze(0)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1)
    backbone(backbone.entry(rows)).square().sum().backward()
    optimizer.step()
    (weight,) = backbone.parameters()
    assert not weight[0].any()
    assert not torch.equal(weight[1].detach(), torch.tensor(VECTORS["the"]))
    assert read_word_vectors(path, "weights").vectors[1].tolist() == VECTORS["the"]
    backbone.freeze(2)
    assert not weight.requires_grad


def test_sizes_are_known_without_memory_for_the_vectors(path):
    backbone, _ = build(path)
    context = BackboneContext(vocabulary=backbone.entry.vocabulary)
    component = Component(name="word_vectors", params={"weights": path})
    assert dimensions(component, context) == ((15, 0), 3) == (backbone.stage_sizes, backbone.feature_dim)
    with torch.device("meta"):
        assert next(build_backbone(component, replace(context, load_weights=False)).parameters()).is_meta
    assert is_pretrained(component)


def test_a_recorded_architecture_builds_the_network_with_the_file_gone(path):
    first, rows = build(path)
    os.unlink(path)
    context = BackboneContext(vocabulary=first.entry.vocabulary, load_weights=False, architecture=first.architecture)
    again = build_backbone(Component(name="word_vectors", params={"weights": path}), context)
    again.load_state_dict(first.state_dict())
    assert_close(again(again.entry(rows)), first(first.entry(rows)), **EXACT)


@pytest.mark.parametrize("tokenizer", ["minilm", VECTORS_FILE])
def test_the_words_of_another_tokenizer_are_refused_with_what_to_write(path, tokenizer):
    context = BackboneContext(vocabulary=load_tokenizer(tokenizer)[1])
    with pytest.raises(InvalidInput, match=rf"data\.tokenizer is not that of 'word_vectors'.*data\.tokenizer: {path},"):
        dimensions(Component(name="word_vectors", params={"weights": path}), context)


def test_images_are_refused(path):
    with pytest.raises(InvalidInput, match=r"backbone 'word_vectors' reads text, and data\.modality is 'images'"):
        dimensions(Component(name="word_vectors", params={"weights": path}), BackboneContext())


def test_both_paths_of_a_search_space_are_relative_to_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    text = "data: {modality: text, tokenizer: vectors.txt}\ntrial: {backbone: {word_vectors: {weights: vectors.txt}}}\n"
    file = load_search_file(write(tmp_path, text, "space.yaml"))
    assert file.data.tokenizer == file.trial["backbone"]["word_vectors"]["weights"] == path


# a trial


def domains() -> tuple[DomainPair, list[str], list[str]]:
    """A pair of texts read by the tiny vectors, with the texts of source and target."""
    labels, preprocessing = np.arange(24) % 2, load_text_preprocessing(VECTORS_FILE, 12)
    source, target = sentences(labels, FILM, 0), sentences(labels, (*PRODUCT, "zebra"), 2)
    rows, ids = preprocessing.encode(source), tuple(map(str, range(24)))
    labelled = LabelledDomain("source", rows, ids, labels, CLASSES)
    unlabelled = UnlabelledDomain("target", preprocessing.encode(target), ids)
    return DomainPair(labelled, labelled, unlabelled, preprocessing), source, target


def test_a_random_forest_on_the_vectors_is_that_of_scikit_learn_on_means_by_numpy():
    pair, source, target = domains()
    lines = [line.split() for line in Path(VECTORS_FILE).read_text().splitlines()]
    vectors = {word: np.float32(numbers) for word, *numbers in lines}
    means = [
        [np.mean([vectors[word] for word in text.split() if word in vectors], axis=0) for text in texts]
        for texts in (source, target)
    ]
    backbone = {"word_vectors": {"weights": VECTORS_FILE}}
    config = tiny_text_config(backbone=backbone, method={"random_forest": {"num_trees": 25}})
    run = ClosedFormRun(config, tiny_text_data(pair), RULE)
    run.epoch(3)
    seed = derive_seed(config.seed, "method") % 2**32
    forest = RandomForestClassifier(25, random_state=seed).fit(means[0], pair.source.labels)
    assert_allclose(run.evidence["target"], forest.predict_proba(means[1]), atol=1e-5)
