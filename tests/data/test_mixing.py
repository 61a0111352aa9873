"""Mixed examples, against torchvision's for a batch that shares its draw, and against torch's Beta distribution."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.transforms import v2

from ray_tl.data.mixing import MIXINGS, beta_quantiles, mixed_labels
from ray_tl.errors import InvalidInput
from tests.data.test_augmentation import images

LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
CLOSE = {"rtol": 0, "atol": 1e-6}
every_mixing = pytest.mark.parametrize("name", ["mixup", "cutmix"])


def ours(name: str, alpha: float, draws: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch with each image mixed with the one before it, as torchvision pairs them, and the labels."""
    mixing = MIXINGS.create(name, {"alpha": alpha})
    mixed, shares = mixing.mix(images(), images().roll(1, 0), torch.tensor([draws] * 6))
    return mixed, mixed_labels(LABELS, LABELS.roll(1), shares, 3)


@pytest.mark.parametrize("draw", [0.0, 0.3, 0.9])
def test_mixup_is_torchvisions_for_the_same_share(draw):
    """Beta(1, 1) is uniform, so the draw is the share."""
    theirs = v2.MixUp(num_classes=3)
    mixed, labels = ours("mixup", 1.0, [draw])
    params = {"labels": LABELS, "batch_size": 6, "lam": draw}
    assert_close(mixed, theirs.transform(images(), params), **CLOSE)
    assert_close(labels, theirs.transform(LABELS, params), **CLOSE)


@pytest.mark.parametrize(
    ("draws", "box"),
    [
        ([0.75, 0.5, 0.5], (6, 6, 18, 18)),  # a quarter of 24 x 24 in the middle: 6 to each side of 12
        ([0.75, 0.0, 0.5], (0, 6, 6, 18)),  # cut at the left border
        ([0.75, 0.5, 0.99], (6, 17, 18, 24)),  # cut at the bottom
        ([0.0, 0.5, 0.5], (0, 0, 24, 24)),
    ],
)
def test_cutmix_is_torchvisions_for_the_same_box(draws, box):
    theirs = v2.CutMix(num_classes=3)
    left, top, right, bottom = box
    params = {"labels": LABELS, "batch_size": 6, "box": box}
    params["lam_adjusted"] = 1 - (right - left) * (bottom - top) / 24**2
    mixed, labels = ours("cutmix", 1.0, draws)
    assert_close(mixed, theirs.transform(images(), params), **CLOSE)
    assert_close(labels, theirs.transform(LABELS, params), **CLOSE)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_drawn_from_beta(alpha):
    torch.manual_seed(0)
    drawn = beta_quantiles(torch.rand(20_000), alpha)
    expected = torch.distributions.Beta(alpha, alpha)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn.var()) == pytest.approx(float(expected.variance), rel=0.03)


@every_mixing
def test_each_pair_has_a_share_of_its_own(name):
    mixing = MIXINGS.create(name, {})
    draws = torch.linspace(0.05, 0.95, 6)[:, None].expand(6, mixing.num_draws)
    shares = mixing.mix(images(), images().roll(1, 0), draws)[1]
    assert len(set(shares.tolist())) == 6


def test_mixup_mixes_activations_of_any_shape():
    rows = torch.arange(12.0).reshape(3, 4)
    mixed, shares = MIXINGS.create("mixup", {"alpha": 1.0}).mix(
        rows, rows.roll(1, 0), torch.tensor([[0.0], [0.5], [1.0]])
    )
    assert_close(mixed, torch.stack([rows[2], (rows[1] + rows[0]) / 2, rows[2]]), **CLOSE)
    assert shares.tolist() == [0.0, 0.5, 1.0]


def test_labels_of_two_examples_of_a_class_stay_that_class():
    labels = mixed_labels(LABELS, LABELS, torch.full((6,), 0.3), 3)
    assert_close(labels, F.one_hot(LABELS, 3).float(), **CLOSE)


@every_mixing
@pytest.mark.parametrize("alpha", [0.0, 33.0])
def test_alpha_out_of_range_is_refused(name, alpha):
    with pytest.raises(InvalidInput, match=rf"{name}.alpha={alpha} is out of range; choose above 0, up to 32"):
        MIXINGS.create(name, {"alpha": alpha})
