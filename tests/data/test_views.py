"""Views of an image, against torchvision's."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from ray_tl.data.augmentation import TEST_TIME_AUGMENTATIONS
from ray_tl.errors import InvalidInput
from tests.data.test_augmentation import images

every_choice = pytest.mark.parametrize("name", TEST_TIME_AUGMENTATIONS.names())
CLOSE = {"rtol": 0, "atol": 1e-6}


def seen(name: str, params: dict | None = None) -> list[torch.Tensor]:
    return [view.change(images()) for view in TEST_TIME_AUGMENTATIONS.create(name, params or {})]


@pytest.mark.parametrize(("name", "count"), [("none", 1), ("flips", 2), ("crops", 6), ("flipped_crops", 12)])
def test_a_choice_has_as_many_views_as_it_says(name, count):
    assert len(seen(name)) == count


@every_choice
def test_the_first_view_is_the_image_as_it_is(name):
    assert_close(seen(name)[0], images(), rtol=0, atol=0)


@every_choice
def test_names_tell_views_apart(name):
    names = [view.name for view in TEST_TIME_AUGMENTATIONS.create(name, {})]
    assert len(set(names)) == len(names)


def test_crops_of_another_scale_have_other_names():
    """What a view gives is kept under its name."""
    near, far = (TEST_TIME_AUGMENTATIONS.create("crops", {"scale": scale}) for scale in (0.8, 0.9))
    assert not {view.name for view in near[1:]} & {view.name for view in far[1:]}


@every_choice
def test_bytes_and_floats_are_seen_alike(name):
    pixels = (images() * 255).to(torch.uint8)
    for view in TEST_TIME_AUGMENTATIONS.create(name, {}):
        of_bytes = view.change(pixels)
        scaled = of_bytes.float() / 255 if of_bytes.dtype == torch.uint8 else of_bytes
        assert_close(scaled, view.change(pixels.float() / 255), **CLOSE)


def test_crops_are_torchvisions_five_stretched():
    theirs = v2.FiveCrop(12)(images())  # four corners, then the centre
    whole = [functional.resize(crop, [24, 24]) for crop in (theirs[-1], *theirs[:-1])]
    assert_close(seen("crops", {"scale": 0.5})[1:], whole, rtol=0, atol=1e-5)


def test_mirrored_views_follow_the_others():
    plain, both = seen("crops", {"num_crops": 2}), seen("flipped_crops", {"num_crops": 2})
    assert_close(both, [*plain, *(image.flip(-1) for image in plain)], **CLOSE)


@pytest.mark.parametrize(("field", "value"), [("num_crops", 0), ("num_crops", 6), ("scale", 1.5)])
def test_parameters_out_of_range_are_refused(field, value):
    with pytest.raises(InvalidInput, match=f"test_time_augmentation.{field}={value} is out of range"):
        TEST_TIME_AUGMENTATIONS.create("crops", {field: value})
