"""Tables of texts and of images, in every format, and what is said of broken ones."""

import csv
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ray_tl.data.load import load_pair
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.table_domains import read_labelled_table, read_unlabelled_table
from ray_tl.data.tables import read_columns
from ray_tl.errors import InvalidInput
from ray_tl.search_space import DataOptions
from tests.models.pretrained_texts import write_tokenizer
from tests.training.tiny_text import tiny_preprocessing

TEXT = DataOptions(modality="text")
SKIP = DataOptions(modality="text", on_broken="skip")
ROWS = [("the film was great", "good"), ('a "dull",\nlong plot', "bad"), ("null", "good"), ("weak", "bad")]
FORMATS = ["csv", "tsv", "jsonl", "parquet"]


def write(path, rows=ROWS, columns=("text", "label")):
    """The same rows in the format that the name says."""
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records, pa.schema([(name, pa.string()) for name in columns])), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(record) for record in records))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([columns, *rows])
    return str(path)


def labelled(name, options=TEXT, **rest):
    return read_labelled_table(name, tiny_preprocessing(), options, **rest)


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_rows_of_the_texts_with_their_classes(tmp_path, suffix):
    domain = labelled(write(tmp_path / f"t.{suffix}"))
    np.testing.assert_array_equal(domain.inputs, tiny_preprocessing().encode([text for text, _ in ROWS]))
    assert (domain.classes, domain.labels.tolist()) == (("bad", "good"), [1, 0, 1, 0])
    assert domain.ids == ("1", "2", "3", "4")


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_column_but_the_texts_of_a_target_is_kept(tmp_path, suffix):
    columns = read_columns(write(tmp_path / f"t.{suffix}"), ["text"], "target")
    assert list(columns.cells) == ["text"]
    plain = write(tmp_path / f"plain.{suffix}", [(text,) for text, _ in ROWS], ("text",))
    with_labels = read_unlabelled_table(str(tmp_path / f"t.{suffix}"), tiny_preprocessing(), TEXT)
    assert with_labels.fingerprint() == read_unlabelled_table(plain, tiny_preprocessing(), TEXT).fingerprint()


def test_an_address_and_columns_of_other_names_are_read(tmp_path):
    write(tmp_path / "t.parquet", columns=("review", "stars"))
    options = DataOptions(modality="text", text_column="review", label_column="stars")
    assert labelled(f"file://{tmp_path}/t.parquet", options).classes == ("bad", "good")


def test_numbers_are_classes_in_every_format(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n' * 2)
    (tmp_path / "t.csv").write_text("text,label\na,1\nb,0\n" * 1 + "a,1\nb,0\n")
    assert labelled(str(tmp_path / "t.jsonl")).classes == labelled(str(tmp_path / "t.csv")).classes == ("0", "1")


def test_missing_columns_are_named_at_once_with_the_nearest(tmp_path):
    name = write(tmp_path / "t.csv", columns=("texts", "labels"))
    with pytest.raises(InvalidInput, match=r"2 problems\n.*'text'; did you mean 'texts'.*\n.*'label'; did you mean"):
        labelled(name)


def test_everything_that_is_wrong_with_the_rows_is_said_at_once(tmp_path):
    (tmp_path / "t.csv").write_text('text,label\nfine,good\n" ",good\nfine,\nfine,good,more\n')
    said = r"2 problems\n.*3 rows can't be used \(row 2 is empty; row 3 has no label; row 4 has 3 cells, the header 2\)"
    with pytest.raises(InvalidInput, match=rf"{said}; mend them or set on_broken: skip\.\n.*has 1 class,"):
        labelled(str(tmp_path / "t.csv"))


def test_broken_rows_are_left_out_under_the_numbers_that_the_others_have(tmp_path):
    lines = [
        '{"text": "fine", "label": "a"}',
        "half a {",
        '{"text": 5, "label": "a"}',
        '{"text": "dull", "label": "b"}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join([*lines, lines[0], lines[3], "[]"]))
    assert labelled(str(tmp_path / "t.jsonl"), SKIP).ids == ("1", "4", "5", "6")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no rows; give a table with a header"),
        ("text,label\n", "has no usable rows"),
        ("text,label\na,good\nb,bad\n", r"2 problems\n.*class 'bad' has 1 row.*\n.*class 'good' has 1 row"),
        ("text,label\na,good\nb,good\n", "has 1 class, but a classifier needs 2"),
    ],
)
def test_tables_that_can_train_nothing_are_refused(tmp_path, content, said):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InvalidInput, match=said):
        labelled(str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.csv", "does not exist; give a file that ends in .csv, .tsv, .jsonl, .csv.gz"),
        ("folder", "is not a table; give a file that ends in"),
        ("half.parquet", "can't be read as a table"),
        ("latin.csv", "has the byte 0xdf in line 2, which is not UTF-8; save it as UTF-8"),
        ("ftp9://host/t.csv", "can't be reached .*check the address"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "latin.csv").write_bytes("text,label\ngroß,a\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match=rf"source='{name}' {said}"):
        labelled(name)


def test_a_class_that_the_source_lacks_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="has the classes good, which the source lacks"):
        labelled(write(tmp_path / "t.csv"), field="target_labelled", classes=("bad", "soso"))


# whole pairs


@pytest.fixture
def options(tmp_path):
    write_tokenizer(tmp_path / "tokenizer")
    return DataOptions(modality="text", tokenizer=str(tmp_path / "tokenizer"), max_length=32, holdout_fraction=0.5)


def test_all_domains_are_as_wide_as_the_longest_text_of_any(tmp_path, options):
    source = write(tmp_path / "source.csv")
    target = write(tmp_path / "target.csv", [("the battery was weak and the box dull",), ("good",)], ("text",))
    test = write(tmp_path / "test.csv", [("bad",)], ("text",))
    pair = load_pair(source, target, test, options, 0)
    widths = {domain.inputs.shape[1] for domain in (pair.source, pair.source_holdout, pair.target, pair.target_test)}
    assert widths == {10}  # eight words between [CLS] and [SEP]
    assert pair.modality == "text"


def test_a_text_may_not_be_trained_on_with_its_label_and_scored_on(tmp_path, options):
    source, few = write(tmp_path / "source.csv"), write(tmp_path / "few.csv", ROWS[:1])
    with pytest.raises(InvalidInput, match=r"1 row of target_labelled is in target_test too, 1 exact copy \(1 is 1\)"):
        load_pair(source, source, source, options, 0, few)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"modality": "text", "image_size": 64, "channels": 1},
            "image_size, channels mean nothing for modality='text'",
        ),
        ({"max_length": 64}, "max_length mean nothing for modality='images'"),
    ],
)
def test_options_of_the_other_modality_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        DataOptions(**fields)


# images


def png(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), grey).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path):
    """Four images in files, and tables of them: of paths, of bytes, and of both as `datasets` writes them."""
    for grey in range(4):
        (tmp_path / f"{grey}.png").write_bytes(png(grey))
    paths = [f"{grey}.png" for grey in range(4)]
    labels = ["a", "b", "a", "b"]
    write(tmp_path / "paths.csv", list(zip(paths, labels, strict=True)), ("image", "label"))
    cells = {
        "bytes": [png(grey) for grey in range(4)],
        "both": [{"bytes": png(grey), "path": "x"} for grey in range(4)],
    }
    for name, column in cells.items():
        pq.write_table(pa.table({"image": column, "label": labels}), tmp_path / f"{name}.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["paths.csv", "bytes.parquet", "both.parquet"])
def test_images_come_from_paths_beside_the_table_or_from_its_cells(images, name):
    domain = read_labelled_table(str(images / name), Preprocessing(image_size=8, channels=1), DataOptions())
    assert domain.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert domain.labels.tolist() == [0, 1, 0, 1]


def test_images_that_can_not_be_read_are_named_by_row(images):
    write(images / "broken.csv", [("0.png", "a"), ("none.png", "b"), ("broken.csv", "b")], ("image", "label"))
    with pytest.raises(InvalidInput, match=r"2 rows can't be used \(row 2 .*none\.png.*; row 3 not a readable image"):
        read_labelled_table(str(images / "broken.csv"), Preprocessing(image_size=8, channels=1), DataOptions())
