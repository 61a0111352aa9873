"""Random changes of a batch; the conformance tests run over the whole registry."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.transforms import functional as reference

from ray_tl.data.augmentation import AUGMENTATIONS, dropped_activations
from ray_tl.data.augmentation.drawn import Affine, AffineResolution, Color, FlipCrop
from ray_tl.errors import InvalidInput

OF_IMAGES = [name for name in AUGMENTATIONS.names() if name != "word_dropout"]
every_augmentation = pytest.mark.parametrize("name", OF_IMAGES)
every_change = pytest.mark.parametrize("name", [name for name in OF_IMAGES if name != "none"])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 6, channels: int = 3, side: int = 24) -> Tensor:
    """Smooth, so that small shifts make small differences."""
    coarse = torch.rand(count, channels, 5, 5, generator=generator(9))
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


@every_augmentation
@pytest.mark.parametrize("rows", [slice(0, 3), slice(3, 6), slice(1, None, 2)])
def test_a_part_of_the_batch_is_changed_as_in_the_whole(name, rows):
    augmentation = AUGMENTATIONS.create(name, {})
    whole = augmentation.augment(images(), generator())
    part = augmentation.augment(images()[rows], generator(), rows=rows, total=6)
    assert torch.equal(part, whole[rows])


@every_augmentation
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(name, channels):
    before = images(channels=channels)
    after = AUGMENTATIONS.create(name, {}).augment(before.clone(), generator())
    assert after.shape == before.shape
    assert after.dtype == before.dtype
    assert 0 <= after.min() <= after.max() <= 1


@every_augmentation
def test_the_input_is_left_alone(name):
    before = images()
    AUGMENTATIONS.create(name, {}).augment(before, generator())
    assert torch.equal(before, images())


@every_change
def test_the_generator_decides(name):
    augmentation = AUGMENTATIONS.create(name, {})
    first, again, other = (augmentation.augment(images(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@every_change
def test_examples_are_changed_differently(name):
    same = images(1).expand(6, -1, -1, -1)
    after = AUGMENTATIONS.create(name, {}).augment(same, generator())
    assert len({tuple(image.flatten().tolist()) for image in after}) > 1


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("none", {}),
        ("affine", {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0}),
        ("affine_resolution", {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0, "min_size": 1.0}),
    ],
)
def test_ranges_of_nothing_change_nothing(name, params):
    assert_close(AUGMENTATIONS.create(name, params).augment(images(), generator()), images(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("draws", "angle", "right", "zoom", "shear"),
    [
        ([1, 0.5, 0.5, 0.5, 0.5], -15, 0, 1, 0),
        ([0.5, 1, 0.5, 0.5, 0.5], 0, -4, 1, 0),
        ([0.5, 0.5, 0.5, 1, 0.5], 0, 0, 1.2, 0),
    ],
)
def test_affine_moves_as_torchvision_does(draws, angle, right, zoom, shear):
    """The centre only: torchvision fills the corners with black."""
    ours = Affine(degrees=15, translate=1 / 6, scale=0.2, shear=0).apply(images(), torch.tensor([draws] * 6))
    theirs = reference.affine(
        images(), angle, [right, 0], zoom, [shear, 0], interpolation=reference.InterpolationMode.BILINEAR
    )
    centre = (..., slice(6, 18), slice(6, 18))
    assert_close(ours[centre], theirs[centre], rtol=0, atol=1e-4)


def test_rows_are_sheared_against_each_other():
    """A vertical edge becomes one with a slope of tan 45 degrees: a pixel to the left for each row downwards."""
    edge = torch.zeros(1, 1, 24, 24)
    edge[..., 12:] = 1
    after = Affine(degrees=0, translate=0, scale=0, shear=45).apply(edge, torch.tensor([[0.5, 0.5, 0.5, 0.5, 1.0]]))
    assert_close(after[0, 0, 6:18, 6:18].sum(dim=1), torch.arange(0.5, 12.5), rtol=0, atol=1e-4)


def test_what_touches_an_edge_ends_there_and_background_lies_around_the_image():
    picture = torch.full((1, 1, 8, 8), 0.2)
    picture[..., 3:5] = 1  # from edge to edge
    half = Affine(degrees=0, translate=0, scale=0.5, shear=0).apply(picture, torch.tensor([[0.5, 0.5, 0.5, 0.0, 0.5]]))
    assert (half[0, 0, 2:6, 3:5] > 0.2).all()
    half[0, 0, 2:6, 2:6] = 0.2
    assert_close(half, torch.full((1, 1, 8, 8), 0.2), rtol=0, atol=1e-6)


def test_rotation_and_shear_together_are_one_after_the_other():
    """Resampled once against twice: close in the middle of a smooth image."""
    both = Affine(degrees=40, translate=0, scale=0, shear=40)
    rotated = both.apply(images(), torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]] * 6))
    then_sheared = both.apply(rotated, torch.tensor([[0.5, 0.5, 0.5, 0.5, 1.0]] * 6))
    at_once = both.apply(images(), torch.tensor([[1.0, 0.5, 0.5, 0.5, 1.0]] * 6))
    centre = (..., slice(9, 15), slice(9, 15))
    assert_close(at_once[centre], then_sheared[centre], rtol=0, atol=0.03)


@pytest.mark.parametrize(("draw", "side"), [(0.0, 6), (0.3, 12), (0.6, 18)])
def test_resolution_falls_to_the_level_drawn(draw, side):
    """Levels at 1/4, 1/2, 3/4 and the whole of the side, checked by Pillow's way of scaling down."""
    still = AffineResolution(degrees=0, translate=0, scale=0, shear=0, min_size=0.25)
    grey = images(channels=1)
    after = still.apply(grey, torch.tensor([[0.5] * 5 + [draw]] * 6))
    small = [Image.fromarray(image.numpy()).resize((side, side), Image.Resampling.BILINEAR) for image in grey[:, 0]]
    again = [np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR)) for image in small]
    assert_close(after[:, 0], torch.from_numpy(np.stack(again)), rtol=0, atol=1e-4)


def test_the_highest_level_keeps_every_pixel():
    noise = torch.rand(2, 1, 24, 24, generator=generator())
    still = AffineResolution(degrees=0, translate=0, scale=0, shear=0, min_size=0.25)
    assert_close(still.apply(noise, torch.tensor([[0.5] * 5 + [0.9]] * 2)), noise, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("draw", "flipped"), [(0.2, True), (0.8, False)])
def test_a_crop_of_everything_only_mirrors(draw, flipped):
    after = FlipCrop(scale=1.0).apply(images(), torch.tensor([[0.0, 0.5, draw, 0.5, 0.5]] * 6))
    assert_close(after, images().flip(-1) if flipped else images(), rtol=0, atol=1e-5)


def test_a_crop_is_the_stretched_part():
    """A quarter of the area at the lower right, as torchvision scales it; inside, since edges see beyond the crop."""
    after = FlipCrop(scale=0.25).apply(images(), torch.tensor([[0.0, 0.5, 0.8, 1.0, 1.0]] * 6))
    theirs = F.interpolate(images()[..., 12:, 12:], size=(24, 24), mode="bilinear")
    assert_close(after[..., 2:-2, 2:-2], theirs[..., 2:-2, 2:-2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("position", "adjust"),
    [(5, reference.adjust_brightness), (6, reference.adjust_contrast), (7, reference.adjust_saturation)],
)
@pytest.mark.parametrize(("draw", "factor"), [(0.0, 0.6), (1.0, 1.4)])
def test_colours_change_as_in_torchvision(position, adjust, draw, factor):
    """Torchvision rounds its weights of red, green and blue to four digits: a tolerance of 1e-3."""
    draws = torch.tensor([[0.0, 0.5, 0.8, 0.5, 0.5, 0.5, 0.5, 0.5]] * 6)
    draws[:, position] = draw
    after = Color(strength=0.4, scale=1.0).apply(images(), draws)
    assert_close(after, adjust(images(), factor), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("affine", "degrees", 200.0),
        ("affine", "translate", -0.1),
        ("affine", "scale", 1.0),
        ("affine", "shear", 90.0),
        ("affine_resolution", "min_size", 0.0),
        ("flip_crop", "scale", 1.5),
        ("color", "strength", 2.0),
    ],
)
def test_parameters_out_of_range_are_refused(name, field, value):
    with pytest.raises(InvalidInput, match=rf"augmentation.{field}={value} is out of range; choose 0"):
        AUGMENTATIONS.create(name, {field: value})


def test_dropped_activations_are_zero_or_scaled_up_and_keep_their_mean():
    ones = torch.ones(200, 4, 3, 3)
    dropped = dropped_activations(ones, generator())
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)


def test_dropped_activations_of_two_workers_are_those_of_one():
    ones = torch.ones(8, 5)
    halves = [dropped_activations(ones[:4], generator(3), rows, 8) for rows in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat(halves), dropped_activations(ones, generator(3)))


def test_strong_view_has_one_grey_square_of_its_side():
    black = torch.zeros(6, 1, 20, 20)
    changed = AUGMENTATIONS.create("strong", {"hole": 0.5}).augment(black, generator())
    assert_close((changed == 0.5).sum(dim=(1, 2, 3)), torch.full((6,), 100), rtol=0, atol=11)
