"""The bottleneck between backbone and head, alone and in a trial."""

import pytest
import torch
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.adaptors import ADAPTORS, AdaptorContext, JointDropout, set_num_views
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.fine_tuning import parameter_groups
from ray_tl.models.transfer_model import build_transfer_model

CONTEXT = AdaptorContext(feature_dim=6)


def features(rows=5):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))


def model(**params):
    adaptor = Component(name="bottleneck", params={"width": 7, **params})
    return build_transfer_model(Component(name="tiny_cnn", params={"width": 4}), 3, BackboneContext(1), adaptor)


def test_none_gives_the_features_as_they_are():
    x = features()
    assert ADAPTORS.create("none", {}, CONTEXT)(x) is x


def test_bottleneck_is_linear_layer_then_normalisation_then_activation():
    adaptor = ADAPTORS.create("bottleneck", {"width": 4, "norm": "layer", "activation": "tanh"}, CONTEXT)
    linear = adaptor.layers[0]
    plain = features() @ linear.weight.T + linear.bias
    centred = plain - plain.mean(1, keepdim=True)
    expected = torch.tanh(centred / torch.sqrt(centred.square().mean(1, keepdim=True) + 1e-5))
    assert_close(adaptor(features()), expected)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "none"])
def test_every_normalisation_goes_with_every_activation(norm, activation):
    adaptor = ADAPTORS.create("bottleneck", {"width": 4, "norm": norm, "activation": activation}, CONTEXT)
    assert adaptor(features()).shape == (5, 4) == (5, adaptor.feature_dim)


def test_methods_and_head_see_the_width_of_the_bottleneck():
    network = model()
    found, logits = network(torch.rand(2, 1, 8, 8))
    assert found.shape == (2, 7) == (2, network.feature_dim)
    assert logits.shape == (2, 3)


def test_bottleneck_learns_at_the_rate_of_the_head():
    network = model()
    groups = parameter_groups(network, 0.1, [1.0, 1.0, 1.0, 5.0])
    assert groups[-1]["lr"] == 0.5
    assert {id(value) for value in groups[-1]["params"]} >= {id(value) for value in network.adaptor.parameters()}


def test_dropout_zeroes_about_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    dropped = JointDropout(0.25)(torch.ones(1000, 10))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)


def test_dropout_does_nothing_in_evaluation():
    x = features()
    assert JointDropout(0.5).eval()(x) is x


def test_rows_of_different_views_are_dropped_differently():
    torch.manual_seed(0)
    dropout = JointDropout(0.5)
    set_num_views(dropout, 2)
    first, second = dropout(torch.ones(8, 50)).chunk(2)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("width", [0, -3])
def test_a_width_below_one_is_refused(width):
    with pytest.raises(InvalidInput, match=f"bottleneck.width={width} is too narrow; choose 1 or more"):
        ADAPTORS.create("bottleneck", {"width": width}, CONTEXT)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_share_outside_its_range_is_refused(dropout):
    with pytest.raises(InvalidInput, match=r"bottleneck\.dropout=.* is out of range; choose 0 up to"):
        ADAPTORS.create("bottleneck", {"dropout": dropout}, CONTEXT)
