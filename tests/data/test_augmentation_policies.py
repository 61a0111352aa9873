"""Policies of torchvision: each example as torchvision changes it alone, with that example's seed."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from ray_tl.data.augmentation import AUGMENTATIONS
from ray_tl.data.augmentation.policies import SEEDS, seeds_of
from ray_tl.errors import InvalidInput
from tests.data.test_augmentation import generator, images

BILINEAR = InterpolationMode.BILINEAR
DRAWS = torch.tensor([[0.1], [0.25], [0.4], [0.55], [0.7], [0.85]])
EXACT = {"rtol": 0, "atol": 0}


def ours(name: str, params: dict | None = None, batch: Tensor | None = None) -> Tensor:
    return AUGMENTATIONS.create(name, params or {}).apply(images() if batch is None else batch, DRAWS)


def sampled(transform: v2.Transform, draw: float, batch: Tensor) -> dict:
    """The parameters that torchvision draws for an example."""
    torch.manual_seed(int(draw * SEEDS))
    return transform.make_params([batch])


def test_rotation_is_torchvisions_by_the_angle_drawn():
    for image, changed, draw in zip(images(), ours("rotation", {"degrees": 30.0}), DRAWS[:, 0].tolist(), strict=True):
        angle = sampled(v2.RandomRotation(30), draw, image)["angle"]
        assert_close(changed, functional.rotate(image, angle, BILINEAR, fill=0.5), **EXACT)


def test_crops_are_torchvisions_of_the_box_drawn():
    for image, changed, draw in zip(images(), ours("resized_crop", {"scale": 0.3}), DRAWS[:, 0].tolist(), strict=True):
        box = sampled(v2.RandomResizedCrop(24, (0.3, 1.0)), draw, image)
        assert_close(changed, functional.resized_crop(image, *box.values(), size=[24, 24]).clamp(0, 1), **EXACT)


def test_erased_places_are_grey_and_no_others_change():
    for image, changed, draw in zip(images(), ours("erasing", {"probability": 1.0}), DRAWS[:, 0].tolist(), strict=True):
        torch.manual_seed(int(draw * SEEDS))
        torch.rand(1)  # torchvision first asks whether to erase
        box = v2.RandomErasing(1.0, value=0.5).make_params([image])
        places = [box[key] for key in ("i", "j", "h", "w")]
        assert_close(changed, functional.erase(image, *places, torch.full((3, 1, 1), 0.5)), **EXACT)


def test_blur_is_torchvisions_of_the_width_drawn():
    """Between 0.1 pixel and a tenth of 24, over 7 pixels to each side."""
    for image, changed, draw in zip(images(), ours("gaussian_blur", {"sigma": 0.1}), DRAWS[:, 0].tolist(), strict=True):
        sigma = sampled(v2.GaussianBlur(15, (0.1, 2.4)), draw, image)["sigma"]
        assert_close(changed, functional.gaussian_blur(image, [15, 15], sigma), **EXACT)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("color_jitter", v2.ColorJitter(0.4, 0.4, 0.4, 0.1)),
        ("gaussian_noise", v2.GaussianNoise(sigma=0.05)),
        ("trivial_augment", v2.TrivialAugmentWide(interpolation=BILINEAR, fill=0.5)),
        ("rand_augment", v2.RandAugment(interpolation=BILINEAR, fill=0.5)),
        ("flip", v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(0.0)])),
    ],
)
def test_an_example_is_changed_as_torchvision_changes_it_with_its_seed(name, reference):
    changed = ours(name)
    for number, seed in enumerate(seeds_of(DRAWS)):
        torch.manual_seed(seed)
        assert_close(changed[number], reference(images()[number]).clamp(0, 1), **EXACT)


def test_noise_has_the_deviation_asked_for():
    grey = torch.full((6, 3, 64, 64), 0.5)
    assert float(ours("gaussian_noise", {"sigma": 0.1}, grey).std()) == pytest.approx(0.1, rel=0.02)


def test_flips_mirror_the_share_asked_for():
    turned = ours("flip", {"horizontal": 0.0, "vertical": 1.0})
    assert_close(turned, images().flip(-2), **EXACT)


def test_the_global_generator_is_left_where_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ours("heavy")
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_may_be_named_one_by_one():
    augmentation = AUGMENTATIONS.create("standard", {})
    whole = augmentation.augment(images(), generator())
    rows = torch.tensor([5, 0, 1])
    assert_close(augmentation.augment(images()[rows], generator(), rows, 6), whole[rows], **EXACT)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("rotation", "degrees", 181.0),
        ("flip", "horizontal", 1.5),
        ("flip", "vertical", -0.5),
        ("resized_crop", "scale", 0.0),
        ("color_jitter", "brightness", 1.5),
        ("color_jitter", "hue", 0.6),
        ("gaussian_noise", "sigma", 0.0),
        ("gaussian_blur", "sigma", 0.5),
        ("erasing", "probability", 2.0),
        ("erasing", "largest", 0.01),
        ("rand_augment", "num_ops", 0),
        ("rand_augment", "magnitude", 31),
        ("standard", "scale", 2.0),
        ("standard", "strength", 2.0),
        ("heavy", "num_ops", 11),
    ],
)
def test_parameters_out_of_range_are_refused(name, field, value):
    with pytest.raises(InvalidInput, match=rf"augmentation.{field}={value} is out of range; choose"):
        AUGMENTATIONS.create(name, {field: value})
