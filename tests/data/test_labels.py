"""From cells and folder names to classes."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.images import read_labelled_folder
from ray_tl.data.labels import alike_problems, read_labels
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput

NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")


@pytest.mark.parametrize(
    ("cell", "label"),
    [("cat", "cat"), (" cat\t", "cat"), (NFD, NFC), (1, "1"), (1.0, "1"), (True, "True"), (0.5, "0.5")],
)
def test_a_class_is_a_text_without_blanks_in_composed_form(cell, label):
    assert read_labels([cell]) == ([label], {})


@pytest.mark.parametrize(
    "cell", [None, "", "  ", float("nan"), "NaN", "nan", "NA", "n/a", "null", "NULL", "<NA>", " NA "]
)
def test_missing_values_are_no_class_in_any_spelling(cell):
    labels, reasons = read_labels(["cat", cell])
    assert labels == ["cat", None]
    assert "has no label" in reasons[1]


@pytest.mark.parametrize("cell", [["a", "b"], [], ("a",), {"a": 1}, b"cat", np.zeros(2)])
def test_several_values_are_no_class(cell):
    labels, reasons = read_labels([cell])
    assert labels == [None]
    assert "as its label, and a row has one class" in reasons[0]


@pytest.mark.parametrize("cells", [[0, 1, -1], ["0", "1", "-1"], [0.0, 1.0, -1.0], ["0.0", "1.0", "-1.0"]])
def test_minus_one_beside_zero_is_no_class(cells):
    labels, reasons = read_labels(cells)
    assert [label and float(label) for label in labels] == [0, 1, None]
    assert "stands for none" in reasons[2]


@pytest.mark.parametrize("cell", ["Na", "Nan", "None", "none", "Null"])
def test_words_that_look_missing_in_another_case_are_classes(cell):
    assert read_labels([cell]) == ([cell], {})


def test_minus_one_beside_one_is_a_class():
    assert read_labels([-1, 1]) == (["-1", "1"], {})


def test_numbers_of_named_classes_become_their_names():
    labels, reasons = read_labels([1, 0, -1, 2, None], ["cat", "dog"])
    assert labels == ["dog", "cat", None, None, None]
    assert "has the label 2, and there are the classes 0..1" in reasons[3]


@pytest.mark.parametrize(
    "names",
    [
        ("pos", "pos "),
        ("cat", "Cat"),
        (NFC, NFD),
        ("True", "true"),
        ("1", "1.0"),
        ("Straße", "STRASSE"),
        ("7", "007"),
        ("cat", "cat\u200b"),
    ],
)
def test_names_that_users_take_for_one_are_named_together(names):
    (line,) = alike_problems(["other", *names])
    assert all(repr(name) in line for name in names)


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "cats"),
        ("1", "11"),
        ("1234567", "1234568"),
        ("a", "ä"),
        ("inf", "infinity"),
        ("1.1", "1.10"),
        ("1_2", "12"),
        ("1e3", "1000"),
    ],
)
def test_names_that_differ_stay_apart(names):
    assert alike_problems(names) == []


def test_names_alike_in_the_other_domain_alone_are_its_own_matter():
    assert alike_problems(["dog"], ["cat", "Cat", "dog"]) == []
    assert len(alike_problems(["CAT"], ["cat", "dog"])) == 1


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("Cat", "cat"), "classes 'Cat' and 'cat' differ by case"),
        ((NFC, NFD), "differ by case, blanks or notation"),
        (("nan", "dog", "cat"), "has a folder 'nan', whose name stands for a missing label"),
        (("-1", "0", "1"), "has a folder '-1', whose name stands for a missing label"),
    ],
)
def test_folders_are_read_by_the_same_rule(folders, said, tmp_path):
    for folder in folders:
        for number in range(2):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("L", (8, 8), number).save(tmp_path / folder / f"{number}.png")
    with pytest.raises(InvalidInput, match=said):
        read_labelled_folder(tmp_path, Preprocessing(image_size=8, channels=1))
