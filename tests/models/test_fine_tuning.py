"""Freezing, learning-rate multipliers, unfreezing and parameter groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ray_tl.errors import InvalidInput
from ray_tl.models.backbones import BackboneContext
from ray_tl.models.fine_tuning import LR_MULTIPLIERS, UNFREEZING, parameter_groups
from ray_tl.models.freezing import check_freeze_depth
from ray_tl.models.transfer_model import TransferModel, build_transfer_model
from tests.models.smallest import smallest

every_norm = pytest.mark.parametrize("name", ["hf_vit", "resnet18", "small_cnn", "tiny_cnn"])


def build(name: str) -> TransferModel:
    torch.manual_seed(0)
    return build_transfer_model(smallest(name), 3, BackboneContext(image_size=32))


def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def statistics(part: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in part.buffers()]


@every_norm
def test_frozen_stages_keep_their_statistics_and_others_move(name):
    model = build(name)
    model.backbone.freeze(1)
    frozen, trained = model.backbone.stages[:2]
    frozen_before, trained_before = statistics(frozen), statistics(trained)
    model.train()(images())
    assert all(torch.equal(a, b) for a, b in zip(frozen_before, frozen.buffers(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(trained_before, trained.buffers(), strict=True))


@every_norm
def test_only_stages_beyond_the_depth_get_gradients(name):
    model = build(name).train()
    model.backbone.freeze(2)
    model(images())[1].square().sum().backward()
    for number, stage in enumerate(model.backbone.stages):
        assert {parameter.grad is not None for parameter in stage.parameters()} <= {number >= 2}


@every_norm
def test_freezing_twice_is_freezing_once(name):
    model = build(name)
    model.backbone.freeze(2)
    once = modes(model)
    model.backbone.freeze(2)
    assert modes(model) == once


def modes(model: TransferModel) -> list[tuple[bool, list[bool]]]:
    return [(module.training, [p.requires_grad for p in module.parameters()]) for module in model.modules()]


def test_freezing_takes_effect_while_training():
    model = build("tiny_cnn").train()
    model.backbone.freeze(2)
    assert [stage.training for stage in model.backbone.stages] == [False, False, True]
    assert model.head.training


def test_evaluation_mode_outlasts_freezing():
    model = build("tiny_cnn").eval()
    model.backbone.freeze(1)
    assert not any(module.training for module in model.modules())


def test_lowering_the_depth_thaws():
    model = build("tiny_cnn").train()
    untouched = modes(model)
    model.backbone.freeze(3)
    assert modes(model) != untouched
    model.backbone.freeze(0)
    assert modes(model) == untouched


def test_freezing_every_stage_leaves_the_head():
    model = build("tiny_cnn")
    model.backbone.freeze(3)
    assert [key for key, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_frozen_stages_are_not_moved_by_weight_decay():
    model = build("tiny_cnn").train()
    model.backbone.freeze(1)
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1, [1.0] * 4), weight_decay=0.5)
    model(images())[1].square().sum().backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved == [False] * 3 + [True] * 5


@pytest.mark.parametrize(("depth", "wrong"), [(14, "deeper than 'resnet18', which has 6 stages"), (-1, "negative")])
def test_a_depth_out_of_range_is_refused(depth, wrong):
    with pytest.raises(InvalidInput, match=rf"^freeze_depth={depth} is {wrong}; choose 0\.\.6\.$"):
        check_freeze_depth(depth, 6, "resnet18")


def test_layer_decay_falls_towards_the_input():
    chosen = LR_MULTIPLIERS.create("layer_decay", {"decay": 0.5, "head": 10.0})
    assert chosen.multipliers(3) == [0.125, 0.25, 0.5, 10.0]


def test_uniform_multipliers_leave_the_rate_and_lift_the_head():
    assert LR_MULTIPLIERS.create("uniform", {"head": 2.0}).multipliers(2) == [1.0, 1.0, 2.0]


def test_stated_multipliers_are_taken_as_they_are():
    chosen = LR_MULTIPLIERS.create("per_stage", {"multipliers": [0.1, 0.2], "head": 3.0})
    assert chosen.multipliers(2) == [0.1, 0.2, 3.0]


def test_stated_multipliers_must_match_the_stages():
    chosen = LR_MULTIPLIERS.create("per_stage", {"multipliers": [0.1, 0.2]})
    with pytest.raises(InvalidInput, match="has 2 values, but the backbone has 6 stages; give 6"):
        chosen.multipliers(6)


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("uniform", {"head": 0.0}, "uniform.head=0.0"),
        ("layer_decay", {"decay": 1.5}, "layer_decay.decay=1.5"),
        ("layer_decay", {"decay": 0.5, "head": -1.0}, "layer_decay.head=-1.0"),
        ("per_stage", {"multipliers": [1.0, 0.0]}, r"per_stage.multipliers\[1\]=0.0"),
    ],
)
def test_multipliers_out_of_range_are_refused(name, params, field):
    with pytest.raises(InvalidInput, match=f"{field} is out of range; choose above 0"):
        LR_MULTIPLIERS.create(name, params)


@pytest.mark.parametrize(
    ("progress", "depth"), [(0.0, 6), (0.124, 6), (0.125, 5), (0.25, 4), (0.375, 3), (0.5, 2), (1.0, 2)]
)
def test_gradual_unfreezing_takes_equal_steps(progress, depth):
    """From 6 stages to 2 by half of the progress: four steps, an eighth apart."""
    assert UNFREEZING.create("gradual", {"until": 0.5}).depth_at(progress, 2, 6) == depth


@pytest.mark.parametrize("name", UNFREEZING.names())
@given(freeze_depth=st.integers(0, 9), first=st.floats(0, 1), second=st.floats(0, 1))
def test_unfreezing_never_freezes_again_and_ends_at_the_depth(name, freeze_depth, first, second):
    schedule = UNFREEZING.create(name, {})
    early, late = sorted([first, second])
    depths = [schedule.depth_at(progress, freeze_depth, 9) for progress in (early, late, 1.0)]
    assert depths == sorted(depths, reverse=True)
    assert depths[-1] == freeze_depth
    assert depths[0] <= 9


@pytest.mark.parametrize("until", [0.0, 1.5])
def test_unfreezing_outside_the_trial_is_refused(until):
    with pytest.raises(InvalidInput, match=f"gradual.until={until} is out of range"):
        UNFREEZING.create("gradual", {"until": until})


@every_norm
def test_groups_hold_every_parameter_once(name):
    model = build(name)
    groups = parameter_groups(model, 0.1, [1.0] * (model.backbone.num_stages + 1))
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def test_groups_have_the_rates_of_their_stages():
    groups = parameter_groups(build("tiny_cnn"), 0.1, [0.25, 0.5, 1.0, 2.0])
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"conv1": 0.025, "conv2": 0.05, "pool": 0.1, "head": 0.2}


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_stage_without_parameters_does_not_disturb_the_optimiser(optimizer):
    model = build("tiny_cnn").train()
    stepping = optimizer(parameter_groups(model, 0.1, [1.0] * 4))
    before = model.head.weight.clone()
    model(images())[1].square().sum().backward()
    stepping.step()
    assert not torch.equal(model.head.weight, before)
