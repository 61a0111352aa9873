"""DELTA's attention against loops, and against what scaling a filter does to the loss of the whole network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from ray_tl.config import Component
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.transfer_model import build_transfer_model
from ray_tl.training import filter_attention as attention
from ray_tl.training.network import build_model
from tests.training.tiny_text import tiny_text_config, tiny_text_data

CPU = torch.device("cpu")
shapes = st.sampled_from([(4, 3), (4, 3, 2, 5), (4, 6, 3)])  # rows, maps and tokens, of three filters


def network():
    torch.manual_seed(0)
    component = Component(name="tiny_cnn", params={"width": 4})
    return build_transfer_model(component, 3, BackboneContext(1, load_weights=False)).double().eval()


def examples(num_rows=40, num_classes=3):
    random = np.random.default_rng(0)
    labels = np.arange(num_rows) % num_classes
    images = random.random((num_rows, 1, 8, 8)) * (1 + labels[:, None, None, None]) / num_classes
    return torch.tensor(images), torch.tensor(labels)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), shapes)
def test_of_a_loss_that_is_linear_the_rise_without_a_filter_is_exact(seed, shape):
    maps, weights = np.random.default_rng(seed).normal(size=(2, *shape))
    found = attention.loss_without_filters(torch.tensor(maps), torch.tensor(weights))
    for row in range(4):
        for filter_ in range(3):
            left = maps[row].copy()
            left[(filter_,) if len(shape) != 3 else (slice(None), filter_)] = 0
            assert found[row, filter_] == pytest.approx((weights[row] * (left - maps[row])).sum(), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))
def test_attention_is_the_mean_softmax_of_a_loop(seed, num_rows, num_filters):
    rises = np.random.default_rng(seed).normal(size=(num_rows, num_filters)) * 3
    expected = np.zeros(num_filters)
    for row in rises:
        expected += np.exp(row) / np.exp(row).sum() / num_rows
    found = attention.filter_attention(torch.tensor(rises))
    np.testing.assert_allclose(found, expected * num_filters, rtol=1e-10)


def test_the_rise_is_what_scaling_each_filter_of_each_stage_begins_to_do_to_the_loss():
    backbone, (images, labels), step = network().backbone, examples(8), 1e-6
    head = attention._head(backbone, images, labels, CPU)
    found = attention._losses_without(backbone, head, images, labels)

    def losses(number, scale):
        """Of each example, with the output of stage `number` times `scale`."""
        x = backbone(backbone.entry(images), stop=number + 1)
        x = backbone(x * scale.view(-1, *[1] * (x.ndim - 2)), start=number + 1)
        return F.cross_entropy(head(x), labels, reduction="none").detach()

    assert [each.shape[1] for each in found] == [4, 8, 8]
    for number, rises in enumerate(found):
        for filter_ in range(rises.shape[1]):
            less = torch.ones(rises.shape[1], dtype=torch.float64)
            less[filter_] -= step
            numeric = (losses(number, less) - losses(number, 2 - less)) / (2 * step)
            assert_close(rises[:, filter_], numeric, rtol=1e-5, atol=1e-8)


def test_a_filter_that_the_classes_need_weighs_more_than_one_that_reaches_nothing():
    backbone, (images, labels) = network().backbone, examples()
    with torch.no_grad():
        backbone.stages[1][0].weight[:, 0] = 0  # nothing behind reads channel 0
    weights = attention.attention_of_stages(backbone, images, labels, CPU)
    assert [each.mean().item() for each in weights] == pytest.approx([1.0, 1.0, 1.0])
    head = attention._head(backbone, images[:20], labels[:20], CPU)
    rises = attention._losses_without(backbone, head, images[20:], labels[20:])
    assert_close(rises[0][:, 0], torch.zeros(20, dtype=torch.float64))
    assert weights[0][0] < weights[0].max()


def test_the_backbone_is_left_as_it_is():
    model, (images, labels) = network().train(), examples()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = attention.attention_of_stages(model.backbone, images, labels, CPU)
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.backbone.stages[0].training
    assert all(value.grad is None for value in model.parameters())
    assert_close(attention.attention_of_stages(model.backbone, images, labels, CPU), weights, rtol=0, atol=0)


@pytest.mark.parametrize(("num_rows", "num_classes"), [(6, 1), (1, 1), (2, 2)])
def test_where_there_is_nothing_to_tell_apart_all_filters_weigh_the_same(num_rows, num_classes):
    found = attention.attention_of_stages(network().backbone, *examples(num_rows, num_classes), CPU)
    assert [each.tolist() for each in found] == [[1.0] * 4, [1.0] * 8, [1.0] * 8]


def test_filters_of_a_network_that_reads_texts_are_its_hidden_features():
    data = tiny_text_data()
    model = build_model(tiny_text_config(), data)
    found = attention.attention_of_stages(model.backbone, data.rows["source"], data.labels, CPU)
    assert [len(each) for each in found] == [16] * model.backbone.num_stages
    assert all(each.std() > 0 for each in found)
