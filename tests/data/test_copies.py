"""The same example twice, in one domain or in two."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from ray_tl.data.copies import Contents, groups_of_copies, joined_groups, normalised_text, overlap
from ray_tl.data.preprocessing import Preprocessing

READ = Preprocessing(image_size=96)


def photographs(count: int) -> list[Image.Image]:
    """Parts of two photographs, none of which overlap."""
    whole = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    return [whole[at % 2].crop((70 * (at // 2), 220, 70 * (at // 2) + 64, 284)) for at in range(count)]


def contents(images: list[Image.Image]) -> Contents:
    return Contents([f"{at}.png" for at in range(len(images))], np.stack([READ.from_image(image) for image in images]))


def texts(*lines: str) -> Contents:
    return Contents([str(row) for row in range(len(lines))], np.zeros((len(lines), 1), np.int32), lines)


def again(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


NAMES = ("target_test", "source")


def test_the_same_pixels_are_exact_copies_whatever_the_file():
    found = overlap(contents(photographs(3)), contents(photographs(8)[2:]), NAMES, "images")
    assert (found.exact.tolist(), found.near.tolist()) == ([2], [])
    assert str(found) == "1 image of target_test is in source too, 1 exact copy (2.png is 0.png)"


@pytest.mark.parametrize(
    "change",
    [
        lambda image: again(image, 90),
        lambda image: again(image, 60),
        lambda image: image.resize((48, 48), Image.Resampling.LANCZOS),
        lambda image: image.resize((200, 200), Image.Resampling.BICUBIC),
        lambda image: image.point(lambda level: min(255, int(level * 1.04))),
    ],
)
def test_images_that_were_compressed_scaled_or_brightened_are_near_copies(change):
    originals = photographs(8)
    found = overlap(contents([change(image) for image in originals]), contents(originals), NAMES)
    assert (found.exact.tolist(), found.near.tolist()) == ([], list(range(8)))


def test_other_parts_of_a_photograph_are_no_copies():
    assert overlap(contents(photographs(9)[:4]), contents(photographs(9)[4:]), NAMES) is None


def test_blank_pages_are_copies_if_they_are_equal_alone():
    blank, other = Image.new("RGB", (64, 64), (250,) * 3), Image.new("RGB", (64, 64), (251,) * 3)
    assert overlap(contents([blank]), contents([other]), NAMES) is None
    assert overlap(contents([blank]), contents([blank]), NAMES).exact.tolist() == [0]


def test_every_row_with_a_copy_is_counted_however_often_it_is_there():
    (one,) = photographs(1)
    found = overlap(contents([one] * 5), contents([one, one]), NAMES)
    assert found.exact.tolist() == [0, 1, 2, 3, 4]


def test_texts_that_differ_by_case_and_punctuation_are_near_copies():
    lines = texts("What a GREAT film!!", "what a great film", "What a great film :(", "Thanks!")
    found = overlap(lines, texts("what a great film", "thanks"), NAMES, "rows")
    assert (found.exact.tolist(), found.near.tolist()) == ([1], [0])


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  A “ﬁne”\n film, no doubt. ", "a fine film no doubt"),
        ("C# is what I like :)", "c# is what i like :)"),
        ("Thanks!", "Thanks!"),
        ("down by -5% since May", "down by -5% since may"),
    ],
)
def test_normalised_texts_are_words_alone(text, plain):
    assert normalised_text(text) == plain


def test_copies_are_of_one_group():
    first, second = photographs(2)
    mixed = contents([first, second, again(first, 90), first])
    exact, near = (groups_of_copies(mixed, with_near=each) for each in (False, True))
    assert (exact[0] == exact[3], len(set(exact.tolist()))) == (True, 3)
    assert (near[0] == near[2] == near[3], len(set(near.tolist()))) == (True, 2)


def test_groups_that_a_pair_connects_become_one():
    joined = joined_groups(np.array([0, 0, 1, 2, 3]), np.array([[1, 2], [2, 3]]))
    assert len(set(joined.tolist())) == 2
    assert len(set(joined[:4].tolist())) == 1
