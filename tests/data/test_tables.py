"""Tables of texts and of images, in every format, and what is said of broken ones."""

import csv
import gzip
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
    with pytest.raises(InvalidInput, match=rf"{said}; repair or .* --on-broken skip\.\n.*has 1 class,"):
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
        ("none.csv", "does not exist; give a file that ends in .csv, .tsv, .jsonl, .ndjson"),
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


# other separators, packed tables, arrays, and data sets saved on disk


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv"])
def test_the_separator_is_that_of_the_header(tmp_path, separator, suffix):
    lines = [separator.join(row) for row in [("id", "text", " label "), ("7", "fine, or; so", "a"), ("8", "dull", "b")]]
    lines[1:] = [line.replace("fine, or; so", '"fine, or; so"') for line in lines[1:]]
    content = "\r\n".join([*lines, *lines[1:]]).encode()
    (tmp_path / f"t.{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    columns = read_columns(str(tmp_path / f"t.{suffix}"), ["text", "label"], "source")
    assert columns.cells == {"text": ["fine, or; so", "dull"] * 2, "label": ["a", "b"] * 2}


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf"text","label"\r\n"a ""b"" c","x"\r\n',
        b'"text","label"\n"a \\"b\\" c","x"\n',
        b'id,text,label\n"1","a ""b"" c",x\n',
        b'text\tlabel\na "b" c\tx\n',
    ],
)
def test_quotation_marks_are_read_as_they_were_written(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    assert read_columns(str(tmp_path / "t.csv"), ["text", "label"], "source").cells == {
        "text": ['a "b" c'],
        "label": ["x"],
    }


def test_texts_of_a_single_column_may_hold_any_separator(tmp_path):
    (tmp_path / "t.csv").write_text('text\nHello, world\na; b\n"in, marks"\n')
    cells = read_columns(str(tmp_path / "t.csv"), ["text"], "target").cells["text"]
    assert cells == ["Hello, world", "a; b", "in, marks"]


def test_a_header_may_be_wide(tmp_path):
    (tmp_path / "t.csv").write_text("text,label," + "z" * 140_000 + "\na,b,c\n")
    assert read_columns(str(tmp_path / "t.csv"), ["text"], "source").cells == {"text": ["a"]}


def test_packed_json_lines_are_read(tmp_path):
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "b"}'))
    assert read_columns(str(tmp_path / "t.jsonl.gz"), ["text"], "source").cells == {"text": ["a", "b"]}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_the_marks_of_spreadsheets_are_no_part_of_the_header(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("text,label\ngroß,a".encode(encoding))
    assert read_columns(str(tmp_path / "t.csv"), ["text"], "source").cells == {"text": ["groß"]}


def test_a_cell_may_be_as_long_as_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + "w " * 2_000_000 + ",a\nshort,b\n")
    assert [len(cell) for cell in read_columns(str(tmp_path / "t.csv"), ["text"], "source").cells["text"]] == [
        4_000_000,
        5,
    ]


def test_quotation_marks_that_enclose_nothing_are_letters(tmp_path):
    rows = [f"{chr(34) if row % 50 == 0 else ''}review {row}\t{row % 2}" for row in range(1000)]
    (tmp_path / "t.tsv").write_text("\n".join(["text\tlabel", *rows]))
    cells = read_columns(str(tmp_path / "t.tsv"), ["text", "label"], "source").cells
    assert cells["text"][49:52] == ["review 49", '"review 50', "review 51"]
    assert cells["label"] == ["0", "1"] * 500


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_text_of_several_lines_may_hold_separators(tmp_path, separator):
    content = 'text,label\nok,pos\n"Dear,\nHi, all\nI, too\nbye",neg\n'.replace(",", separator)
    (tmp_path / "t.csv").write_text(content)
    cells = read_columns(str(tmp_path / "t.csv"), ["text", "label"], "source").cells
    assert cells["text"] == ["ok", "Dear,\nHi, all\nI, too\nbye".replace(",", separator)]
    assert cells["label"] == ["pos", "neg"]


def test_a_cell_that_may_be_several_rows_is_asked_about(tmp_path):
    (tmp_path / "t.tsv").write_text('text\tlabel\nok\tpos\n"one\ttwo\nthree"\tneg\n')
    with pytest.raises(InvalidInput, match="row 2 may be a text of several lines, or several rows"):
        labelled(str(tmp_path / "t.tsv"))


def test_lines_end_where_lines_end_alone(tmp_path):
    (tmp_path / "t.tsv").write_text('text\tlabel\n"Good" film\ta\nba\u2028d\tb\n')
    assert read_columns(str(tmp_path / "t.tsv"), ["text"], "source").cells["text"] == ['"Good" film', "ba\u2028d"]


@pytest.mark.parametrize(
    "content",
    ["\n\ntext;label\na;b\n", "sep=;\ntext;label\na;b\n", "text;label\ra;b\r", 'text; label\n"a"; "b"\n'],
)
def test_tables_as_spreadsheets_write_them(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content.encode())
    assert read_columns(str(tmp_path / "t.csv"), ["text", "label"], "source").cells == {"text": ["a"], "label": ["b"]}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "text,label\na,b".encode("utf-16-le"), "holds NUL characters, as UTF-16 without a mark does"),
        ("t.csv", b"text,label,label\na,b,c\n", "has the column 'label' 2 times; remove or rename"),
        ("t.csv", b'text,label,"' + b"z" * 140_000 + b"\na,b\n", "has a quotation mark that is not closed"),
        ("t.csv", b'"text","label"\n"a","x"\n"b" c,"y"\n"d","x"\n', "has a quotation mark that is not closed"),
        ("t.jsonl", b'[{"text": "a", "label": "b"}]', r"holds a JSON array; write one object on each line, as jq -c"),
        ("t.jsonl", b"[" * 100_000, "has no line that can be read; line 1 is nested too deep"),
        ("t.jsonl", b'{"text": "a", "label": "b", "label": "c"}', "the key 'label' is given twice"),
        ("t.csv.gz", b"text,label\na,b", "can't be unpacked"),
        ("t.npz", b"no archive", "is no archive of NumPy arrays"),
        ("t.npy", b"no array", r"holds one array and no 'label'; save it with numpy.savez"),
        ("t.parquet", b"PAR1", "can't be read as a table"),
    ],
)
def test_a_table_that_can_not_be_read_is_one_message(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=said):
        labelled(str(tmp_path / name))


def test_half_a_character_makes_a_row_unusable(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "cut \\ud83d", "label": "a"}\n{"text": "whole", "label": "b"}\n' * 2)
    with pytest.raises(InvalidInput, match=r"2 rows can't be used \(row 1 holds half of a surrogate pair \(\\ud83d\)"):
        labelled(str(tmp_path / "t.jsonl"))


def test_a_column_twice_in_parquet_is_named(tmp_path):
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    pq.write_table(pa.Table.from_arrays(columns, names=["text", "label", "label"]), tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match="has the column 'label' 2 times"):
        labelled(str(tmp_path / "t.parquet"))


def test_numbers_of_classes_in_parquet_have_the_names_that_datasets_noted(tmp_path):
    features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    table = pa.table({"text": [text for text, _ in ROWS], "label": [1, 0, 1, 0]})
    note = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": note}), tmp_path / "t.parquet")
    domain = labelled(str(tmp_path / "t.parquet"))
    assert (domain.classes, domain.labels.tolist()) == (("bad", "good"), [1, 0, 1, 0])


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
GREY = Preprocessing(image_size=8, channels=1)


@pytest.mark.parametrize(
    "arrays",
    [
        {"image": PIXELS, "label": [0, 1, 0, 1]},
        {"images": PIXELS[..., None], "labels": [0, 1, 0, 1]},
        {"X": PIXELS[:, None], "y": np.array([0.0, 1.0, 0.0, 1.0])},
        {"image": PIXELS / 255, "label": [0, 1, 0, 1]},
        {"x": 255 - PIXELS, "y": [1, 1, 0, 0], "label": [[0], [1], [0], [1]], "image": PIXELS},
        {"image": PIXELS.astype(">u2") * 257, "label": np.array([b"0", b"1", b"0", b"1"])},
    ],
)
def test_arrays_of_numpy_are_images_with_labels(tmp_path, arrays):
    np.savez(tmp_path / "t.npz", **arrays)
    domain = read_labelled_table(str(tmp_path / "t.npz"), GREY, DataOptions())
    np.testing.assert_array_equal(domain.inputs[:, 0], PIXELS)
    assert (domain.classes, domain.labels.tolist()) == (("0", "1"), [0, 1, 0, 1])


def test_one_array_of_numpy_is_an_unlabelled_domain(tmp_path):
    np.save(tmp_path / "t.npy", PIXELS)
    np.testing.assert_array_equal(
        read_unlabelled_table(str(tmp_path / "t.npy"), GREY, DataOptions()).inputs[:, 0], PIXELS
    )


def test_texts_of_numpy_are_read(tmp_path):
    np.savez(tmp_path / "t.npz", text=[text for text, _ in ROWS], label=[label for _, label in ROWS])
    assert labelled(str(tmp_path / "t.npz")).classes == ("bad", "good")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": PIXELS, "label": [0, 1]}, "image has 4 rows, label has 2 rows; give each example a row"),
        ({"image": PIXELS}, "has no column 'label'"),
        ({"image": PIXELS, "label": np.array([{}, 1, 2, 3], dtype=object)}, "the array 'label' can't be read"),
        ({"image": PIXELS, "label": 3}, "'label' is a single value"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InvalidInput, match=said):
        read_labelled_table(str(tmp_path / "t.npz"), GREY, DataOptions())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Data sets as the library `datasets` saves them."""
    import datasets

    folder = tmp_path_factory.mktemp("saved")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    images = [Image.fromarray(pixels) for pixels in PIXELS]
    whole = datasets.Dataset.from_dict({"image": images, "label": [1, 0, 1, 0]}, features=features)
    datasets.disable_progress_bars()
    whole.save_to_disk(folder / "whole")
    whole.save_to_disk(folder / "parts", num_shards=2)
    whole.select([3, 1, 2, 0]).save_to_disk(folder / "reordered")
    datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(folder / "splits")
    return folder


@pytest.mark.parametrize(
    ("name", "order"), [("whole", [0, 1, 2, 3]), ("parts", [0, 1, 2, 3]), ("reordered", [3, 1, 2, 0])]
)
def test_a_data_set_saved_on_disk_is_read_without_its_library(saved, name, order):
    domain = read_labelled_table(str(saved / name), GREY, DataOptions())
    np.testing.assert_array_equal(domain.inputs[:, 0], PIXELS[order])
    assert [domain.classes[label] for label in domain.labels] == [["dog", "cat"][row % 2] for row in order]


def test_of_several_splits_one_is_asked_for(saved):
    with pytest.raises(InvalidInput, match=r"holds the splits train, test; give the path of one, .*splits/train"):
        read_labelled_table(str(saved / "splits"), GREY, DataOptions())


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
