"""Taps at several stages: values against NumPy, gradients, where activations may enter."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BACKBONES, BackboneContext
from ray_tl.models.features import FEATURES, AttentionPool, FeaturesContext
from ray_tl.models.fine_tuning import parameter_groups
from ray_tl.models.stages import ImageEntry, Normalisation, StagedBackbone
from ray_tl.models.transfer_model import build_transfer_model
from tests.numeric import numeric_gradient


def maps(channels=20):
    return np.random.default_rng(0).normal(size=(2, channels, 3, 4))


def attention_reference(x, squeeze, expand):
    """Equation 2 of CBAM, row by row."""
    rows = []
    for image in x:
        mean, peak = image.reshape(len(image), -1).mean(1), image.reshape(len(image), -1).max(1)
        judged = sum(expand @ np.maximum(squeeze @ pooled, 0) for pooled in (mean, peak))
        rows.append(mean / (1 + np.exp(-judged)))
    return np.stack(rows)


def attention():
    torch.manual_seed(0)
    pool = AttentionPool(20).double()
    return pool, [layer.weight.detach().numpy() for layer in (pool.squeeze, pool.expand)]


def test_attention_is_that_of_cbam():
    pool, weights = attention()
    assert_close(pool(torch.tensor(maps())).detach(), torch.tensor(attention_reference(maps(), *weights)))


def test_gradient_of_attention_is_that_of_differences():
    pool, weights = attention()
    leaf = torch.tensor(maps(), requires_grad=True)
    pool(leaf).square().sum().backward()
    expected = numeric_gradient(lambda x: float(np.square(attention_reference(x, *weights)).sum()), maps())
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-5, atol=1e-8)


def tiny():
    torch.manual_seed(0)
    return BACKBONES.create("tiny_cnn", {"width": 4}, BackboneContext(1)).eval()


def images():
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def tapped(backbone, **params):
    return FEATURES.create("multi_scale", params, FeaturesContext(backbone, "tiny_cnn"))


def test_last_gives_the_features_of_the_backbone():
    backbone = tiny()
    features = FEATURES.create("last", {}, FeaturesContext(backbone))
    assert torch.equal(features(backbone, images()), backbone(images()))
    assert (features.feature_dim, features.max_start) == (8, 3)


@pytest.mark.parametrize(("pooling", "pooled"), [("mean", np.mean), ("max", np.max)])
def test_pooled_taps_come_from_shallow_to_deep_and_before_the_features_of_the_backbone(pooling, pooled):
    backbone = tiny()
    features = tapped(backbone, num_taps=2, pooling=pooling)
    stages = [backbone(images(), stop=stop).detach().numpy() for stop in (1, 2)]
    expected = [*(pooled(stage, axis=(2, 3)) for stage in stages), backbone(images()).detach().numpy()]
    assert_close(features(backbone, images()).detach(), torch.tensor(np.concatenate(expected, axis=1)))
    assert features.feature_dim == 4 + 8 + 8


def test_all_is_mean_then_max_then_attention():
    backbone = tiny()
    features = tapped(backbone, num_taps=1, pooling="all")
    x = backbone(images(), stop=2)
    attended = features.taps[0].pools[2](x)
    assert_close(
        features(backbone, images()), torch.cat([x.mean((2, 3)), x.amax((2, 3)), attended, backbone(images())], 1)
    )


@pytest.mark.parametrize("start", [1, 2])
def test_activations_enter_up_to_the_first_tap(start):
    backbone = tiny()
    features = tapped(backbone, num_taps=1)
    assert features.max_start == 2
    assert torch.equal(features(backbone, backbone(images(), stop=start), start), features(backbone, images()))


def test_looking_for_the_shapes_leaves_the_backbone_as_it_is():
    backbone = tiny().train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    tapped(backbone, num_taps=2)
    assert_close(backbone.state_dict(), before, rtol=0, atol=0)
    assert all(part.training for part in backbone.modules())


def test_rows_of_a_stage_are_taken_as_they_are():
    stages = [nn.Conv2d(1, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(2 * 30 * 30, 5)), nn.Linear(5, 3)]
    backbone = StagedBackbone(stages, "abc", 3, ImageEntry(Normalisation((0.5,), (0.5,))))
    features = tapped(backbone, num_taps=2)
    x = torch.rand(4, 1, 32, 32)
    assert features.feature_dim == 3 * 2 + 5 + 3
    assert_close(features(backbone, x)[:, 6:11], backbone(x, stop=2))


def test_attention_learns_at_the_rate_of_the_head():
    backbone = Component(name="tiny_cnn", params={"width": 4})
    network = build_transfer_model(backbone, 3, BackboneContext(1), features=Component(name="multi_scale"))
    head = parameter_groups(network, 0.1, [1.0, 1.0, 1.0, 5.0])[-1]
    assert head["lr"] == 0.5
    assert {id(value) for value in head["params"]} >= {id(value) for value in network.features.parameters()}
    assert network.feature_dim == 3 * 4 + 3 * 8 + 8 == network.head.in_features


@pytest.mark.parametrize("num_taps", [0, 3])
def test_a_number_of_taps_that_does_not_fit_is_refused(num_taps):
    rule = (
        rf"multi_scale.num_taps={num_taps} does not fit 'tiny_cnn', which has 2 stages before its last; choose 1\.\.2"
    )
    with pytest.raises(InvalidInput, match=rule):
        tapped(tiny(), num_taps=num_taps)
