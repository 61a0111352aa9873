"""Statistics by domain and by example, against NumPy."""

import copy

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torch.testing import assert_close

from ray_tl.adaptation.normalisation import set_statistics
from ray_tl.config import Component
from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.domain_norm import (
    DomainBatchNorm,
    InstanceNorm,
    OwnBatchNorm,
    domain_of,
    keep_target_norms,
    set_domains,
)
from ray_tl.models.transfer_model import build_transfer_model
from tests.numeric import numeric_gradient

EXACT = {"rtol": 0, "atol": 0}
VIEWS = ("source", "target", "source", "target")
SCALE, SHIFT = np.array([0.5, 1.5, -2.0]), np.array([1.0, 0.0, 3.0])


def batch(seed=0):
    """Four views of two rows with three channels, each view at another place."""
    places = np.array([5.0, -3.0, 6.0, -2.0]).repeat(2)[:, None, None, None]
    return np.random.default_rng(seed).normal(size=(8, 3, 2, 2)) * 2 + places


def layer(kind=DomainBatchNorm):
    norm = nn.BatchNorm2d(3).double()
    norm.weight.data, norm.bias.data = torch.tensor(SCALE), torch.tensor(SHIFT)
    return kind(norm)


def rows_of(domain):
    return np.flatnonzero(np.array(VIEWS).repeat(2) == domain)


def normalised(x, axes):
    normal = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    return normal * SCALE[None, :, None, None] + SHIFT[None, :, None, None]


def separate_reference(x):
    expected = np.empty_like(x)
    for domain in ("source", "target"):
        expected[rows_of(domain)] = normalised(x[rows_of(domain)], (0, 2, 3))
    return expected


@pytest.mark.parametrize("kind", [DomainBatchNorm, OwnBatchNorm])
def test_rows_of_each_domain_are_normalised_by_their_own_statistics(kind):
    norm = layer(kind)
    set_domains(norm, VIEWS)
    assert_close(norm(torch.tensor(batch())).detach(), torch.tensor(separate_reference(batch())))


def test_gradient_flows_through_the_statistics_of_the_own_domain():
    norm, x, leaf = layer(), batch(), torch.tensor(batch(), requires_grad=True)
    set_domains(norm, VIEWS)
    weights = np.random.default_rng(1).normal(size=x.shape)
    (norm(leaf) * torch.tensor(weights)).sum().backward()
    expected = numeric_gradient(lambda x: float((separate_reference(x) * weights).sum()), x)
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("domain", ["source", "target"])
def test_running_statistics_of_each_domain_are_moved_by_its_rows_alone(domain):
    norm = layer()
    set_domains(norm, VIEWS)
    norm(torch.tensor(batch()))
    rows = batch()[rows_of(domain)]
    np.testing.assert_allclose(norm.norms[domain].running_mean, 0.1 * rows.mean((0, 2, 3)))
    np.testing.assert_allclose(norm.norms[domain].running_var, 0.9 + 0.1 * rows.var((0, 2, 3)) * 16 / 15)


def test_in_evaluation_each_view_is_normalised_by_the_running_statistics_of_its_domain():
    norm, x = layer(), torch.tensor(batch())
    set_domains(norm, VIEWS)
    norm(x)
    norm.eval()
    for place, domain in enumerate(VIEWS):
        rows = slice(2 * place, 2 * place + 2)
        assert_close(norm(x)[rows], norm.norms[domain](x[rows]), **EXACT)


def test_what_is_not_told_of_its_domain_is_of_the_target():
    norm, x = layer(), torch.tensor(batch())
    norm.eval().norms["source"].running_mean += 1
    assert torch.equal(norm(x), norm.norms["target"](x))


@pytest.mark.parametrize(("seen", "other"), [("source", "target"), ("target", "source")])
def test_a_domain_that_was_never_seen_has_the_statistics_of_the_other(seen, other):
    norm, plain = layer(), layer(copy.copy)
    for seed in range(3):
        set_domains(norm, (seen,))
        assert torch.equal(norm(torch.tensor(batch(seed))), plain(torch.tensor(batch(seed))))
    for domain in (seen, other):
        assert torch.equal(norm.norms[domain].running_mean, plain.running_mean)
        assert torch.equal(norm.norms[domain].running_var, plain.running_var)


def test_a_domain_that_was_seen_keeps_its_statistics_when_the_other_comes_alone():
    norm = layer()
    set_domains(norm, VIEWS)
    norm(torch.tensor(batch()))
    before = copy.deepcopy(norm.norms["source"].state_dict())
    set_domains(norm, ("target",))
    norm(torch.tensor(batch(1)))
    assert_close(norm.norms["source"].state_dict(), before, **EXACT)


def test_own_batches_move_one_running_average_in_turn_as_two_passes_do():
    norm, plain, x = layer(OwnBatchNorm), layer(copy.copy), torch.tensor(batch())
    set_domains(norm, VIEWS)
    norm(x)
    for domain in ("source", "target"):
        plain(x[rows_of(domain)])
    assert_close(norm.norm.state_dict(), plain.state_dict(), **EXACT)
    assert torch.equal(norm.eval()(x), plain.eval()(x))


def test_scale_and_shift_are_one_parameter_each():
    assert [name for name, _ in layer().named_parameters()] == ["norms.source.weight", "norms.source.bias"]


def test_setting_statistics_sets_those_of_the_target_alone():
    network = network_with("separate")
    first, second = (torch.rand(4, 1, 8, 8) for _ in range(2))
    network.train()(torch.cat([first, second]), 0, ("source", "target"))
    norm = network.backbone.stages[0][1]
    before = norm.norms["source"].running_mean.clone()
    set_statistics(network, [first, second], 0)
    maps = network.backbone.stages[0][0](network.backbone.entry(torch.cat([first, second])))
    assert_close(norm.norms["target"].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert_close(norm.norms["source"].running_mean, before, **EXACT)


def instance_reference(x):
    return normalised(x, (2, 3))


@pytest.mark.parametrize("training", [False, True])
def test_instance_normalisation_takes_each_channel_of_each_example_alone(training):
    norm = layer(InstanceNorm).train(training)
    assert_close(norm(torch.tensor(batch())).detach(), torch.tensor(instance_reference(batch())))


def test_gradient_of_instance_normalisation_is_that_of_differences():
    leaf, weights = torch.tensor(batch(), requires_grad=True), np.random.default_rng(1).normal(size=batch().shape)
    (layer(InstanceNorm)(leaf) * torch.tensor(weights)).sum().backward()
    expected = numeric_gradient(lambda x: float((instance_reference(x) * weights).sum()), batch())
    np.testing.assert_allclose(leaf.grad, expected, rtol=1e-4, atol=1e-7)


def test_what_follows_the_normalisation_still_follows_it():
    assert InstanceNorm(BatchNormAct2d(3))(torch.randn(2, 3, 4, 4)).min() == 0


def test_a_feature_map_of_one_position_is_refused():
    with pytest.raises(InvalidInput, match=r"domain_norm='instance' needs .* raise data.image_size or freeze_depth"):
        layer(InstanceNorm)(torch.zeros(2, 3, 1, 1).double())


def network_with(domain_norm, freeze_depth=0):
    backbone, adaptor = Component(name="tiny_cnn", params={"width": 4}), Component(name="bottleneck")
    return build_transfer_model(
        backbone, 3, BackboneContext(1), adaptor, domain_norm=Component(name=domain_norm), freeze_depth=freeze_depth
    )


@pytest.mark.parametrize(
    ("domain_norm", "kinds"),
    [
        ("shared", [nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d]),
        ("separate", [nn.BatchNorm2d, DomainBatchNorm, DomainBatchNorm]),
        ("own_batch", [nn.BatchNorm2d, OwnBatchNorm, OwnBatchNorm]),
        ("instance", [nn.BatchNorm2d, InstanceNorm, nn.BatchNorm1d]),
    ],
)
def test_stages_that_never_train_keep_batch_normalisation(domain_norm, kinds):
    network = network_with(domain_norm, freeze_depth=1)
    first, second = network.backbone.stages[:2]
    assert [type(norm) for norm in (first[1], second[1], network.adaptor.layers[1])] == kinds


@pytest.mark.parametrize("domain_norm", ["separate", "own_batch"])
def test_a_network_with_the_norms_of_the_target_alone_is_plain_and_predicts_the_same(domain_norm):
    network, x = network_with(domain_norm), torch.rand(6, 1, 8, 8)
    network.train()(x, 0, ("source", "target"))
    expected = network.eval()(x)[1]
    keep_target_norms(network)
    assert list(network.state_dict()) == list(network_with("shared").state_dict())
    assert_close(network(x)[1], expected, **EXACT)


@pytest.mark.parametrize("name", ["source", "source_holdout"])
def test_names_of_the_source_begin_with_source(name):
    assert domain_of(name) == "source"


@pytest.mark.parametrize("name", ["target", "target_test", "target_labelled", "strong"])
def test_other_names_are_of_the_target(name):
    assert domain_of(name) == "target"
