"""Reading folders of image files."""

import logging

import numpy as np
import pytest
from PIL import Image

from ray_tl.data.images import read_labelled_folder, read_unlabelled_folder
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.errors import InvalidInput

SMALL = Preprocessing(image_size=8, channels=1)
FOUR = ["cat/a.png", "cat/b.png", "dog/a.png", "dog/b.png"]


def write(folder, names):
    """Grey images, the n-th of brightness n."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(folder / name)


def damage(folder, names):
    for name in names:
        (folder / name).write_bytes(b"no image")


def test_folders_become_classes(tmp_path):
    write(tmp_path, FOUR)
    domain = read_labelled_folder(tmp_path, SMALL)
    assert domain.classes == ("cat", "dog")
    assert domain.labels.tolist() == [0, 0, 1, 1]
    assert domain.ids == tuple(FOUR)
    assert domain.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_nested_files_belong_to_the_outermost_folder(tmp_path):
    write(tmp_path, [*FOUR, "dog/puppies/young/c.PNG"])
    domain = read_labelled_folder(tmp_path, SMALL)
    assert domain.ids[-1] == "dog/puppies/young/c.PNG"
    assert domain.labels[-1] == 1


def test_order_does_not_depend_on_the_order_of_writing(tmp_path):
    for folder, names in [("one", FOUR), ("two", FOUR[::-1])]:
        write(tmp_path / folder, names)
    one, two = (read_labelled_folder(tmp_path / folder, SMALL) for folder in ("one", "two"))
    assert one.ids == two.ids
    assert one.inputs[:, 0, 0, 0].tolist() == two.inputs[::-1, 0, 0, 0].tolist()


def test_hidden_and_other_files_are_left_out(tmp_path):
    write(tmp_path, [*FOUR, "cat/.hidden.png", ".thumbnails/a.png"])
    (tmp_path / "cat" / "notes.txt").write_text("miaow")
    (tmp_path / "LICENSE").write_text("yours")
    assert read_labelled_folder(tmp_path, SMALL).ids == tuple(FOUR)


@pytest.mark.parametrize("names", [["b.png", "a.jpg"], ["x/a.png", "y/z/b.png"]])
def test_a_target_may_be_flat_or_nested_and_has_no_labels(tmp_path, names):
    write(tmp_path, names)
    domain = read_unlabelled_folder(tmp_path, SMALL)
    assert domain.ids == tuple(sorted(names))
    assert not hasattr(domain, "labels")


def test_preprocessing_decides_shape_and_channels(tmp_path):
    write(tmp_path, FOUR)
    assert read_unlabelled_folder(tmp_path, Preprocessing(image_size=12)).inputs.shape == (4, 3, 12, 12)


def test_broken_images_are_named_all_at_once(tmp_path):
    write(tmp_path, FOUR)
    damage(tmp_path, ["cat/b.png", "dog/a.png"])
    with pytest.raises(
        InvalidInput, match=r"^source=.* 2 images can't be used \(cat/b.png: .*dog/a.png: .*--on-broken skip"
    ):
        read_labelled_folder(tmp_path, SMALL)


def test_a_dozen_broken_images_are_counted_and_ten_named(tmp_path):
    names = [f"{number:02}.png" for number in range(12)]
    damage(tmp_path, names)
    with pytest.raises(InvalidInput, match=r"12 images can't be used.*09\.png") as caught:
        read_unlabelled_folder(tmp_path, SMALL)
    assert "10.png" not in str(caught.value)


def test_broken_images_can_be_left_out_and_are_logged(tmp_path, caplog):
    write(tmp_path, [*FOUR, "dog/c.png"])
    damage(tmp_path, ["dog/b.png"])
    with caplog.at_level(logging.WARNING):
        domain = read_labelled_folder(tmp_path, SMALL, on_broken="skip")
    assert domain.ids == ("cat/a.png", "cat/b.png", "dog/a.png", "dog/c.png")
    assert domain.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 4]
    assert domain.labels.tolist() == [0, 0, 1, 1]
    assert "left out dog/b.png" in caplog.text


def test_a_class_left_with_one_image_is_refused(tmp_path):
    write(tmp_path, FOUR)
    damage(tmp_path, ["dog/b.png"])
    with pytest.raises(InvalidInput, match="class 'dog' has 1 image,"):
        read_labelled_folder(tmp_path, SMALL, on_broken="skip")


def test_a_target_of_broken_images_only_is_refused(tmp_path):
    damage(tmp_path, ["a.png"])
    with pytest.raises(InvalidInput, match="has no images"):
        read_unlabelled_folder(tmp_path, SMALL, on_broken="skip")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"^source='.*nowhere' does not exist; give the path"):
        read_labelled_folder(tmp_path / "nowhere", SMALL)


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    write(tmp_path, ["a.png"])
    with pytest.raises(InvalidInput, match=r"^target='.*a\.png' is a file, not a folder"):
        read_unlabelled_folder(tmp_path / "a.png", SMALL)


def test_an_empty_folder_says_which_files_count(tmp_path):
    with pytest.raises(InvalidInput, match=r"^target='.*': has no images; put files into it that hold PNG, JPEG"):
        read_unlabelled_folder(tmp_path, SMALL)


def test_class_folders_without_an_image_are_an_empty_folder_where_the_classes_are_known(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(InvalidInput, match=r": has no images; put files into it that hold PNG, JPEG"):
        read_labelled_folder(tmp_path, SMALL, classes=("cat", "dog"))


def test_a_single_class_is_refused(tmp_path):
    write(tmp_path, FOUR[:2])
    with pytest.raises(InvalidInput, match="has 1 class folder, but a classifier needs 2"):
        read_labelled_folder(tmp_path, SMALL)


def test_the_faults_of_a_layout_come_at_once_and_before_decoding(tmp_path):
    write(tmp_path, [*FOUR, "emu/a.png", "stray.png"])
    (tmp_path / "fox").mkdir()
    damage(tmp_path, FOUR)
    with pytest.raises(InvalidInput, match="3 problems") as caught:
        read_labelled_folder(tmp_path, SMALL, field="source_holdout")
    for part in ["source_holdout=", "1 image (stray.png) outside", "'emu' has 1 image,", "'fox' has 0 images"]:
        assert part in str(caught.value)


def test_images_survive_the_way_through_a_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_unlabelled_folder(tmp_path, SMALL).inputs[0, 0], pixels)
