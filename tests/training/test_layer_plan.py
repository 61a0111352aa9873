"""The layer plan says what trains, and a trial in which anything else moves breaks off."""

import json

import pytest
import torch

from ray_tl.errors import TrialFailed
from ray_tl.search_space import DataOptions
from ray_tl.training.layer_plan import FirstStep, layer_plan, plan_of
from ray_tl.training.loop import TrialRun
from ray_tl.training.network import build_model
from ray_tl.training.optimisation import OPTIMIZERS
from tests.training.tiny import RULE, UNFREEZE_ONE_STAGE_AN_EPOCH, tiny_config, tiny_data
from tests.training.tiny_text import tiny_text_config, tiny_text_data

PROBE = {"probe_then_fine_tune": {"until": 0.5, "rate_after": 0.1}}


def plan(**changes):
    return plan_of(tiny_config(**changes), 3, DataOptions(image_size=8, channels=1))


def text_plan(**changes):
    data = tiny_text_data()
    return layer_plan(tiny_text_config(**changes), build_model(tiny_text_config(**changes), data))


def rates(**changes):
    return {layer.name: layer.rates for layer in plan(**changes).layers}


def test_rates_are_the_base_rate_times_the_multipliers():
    decay = {"layer_decay": {"decay": 0.5, "head": 10.0}}
    found = rates(optimizer={"sgd": {"lr": 0.08}}, lr_multipliers=decay, freeze_depth=1)
    assert found == {"conv1": (0,), "conv2": (pytest.approx(0.02),), "pool": (0.04,), "head": (0.8,)}


def test_the_second_stage_of_a_probe_has_its_own_rates():
    found = rates(optimizer={"sgd": {"lr": 0.1}}, unfreezing=PROBE, trained_stages=1)
    assert found == {
        "conv1": (0, pytest.approx(0.01)),
        "conv2": (0, 0),
        "pool": (0, 0),
        "head": (0.1, pytest.approx(0.01)),
    }


def test_phases_begin_where_a_stage_thaws():
    assert [phase.from_epoch for phase in plan(unfreezing=UNFREEZE_ONE_STAGE_AN_EPOCH).phases] == [1, 2, 3, 4]
    assert [phase.from_progress for phase in plan(unfreezing=PROBE).phases] == [0.0, 0.5]


def test_a_second_optimisation_is_told():
    assert plan(method="coral").restart is None
    found = plan(method={"adda": {"start": 0.3, "rate": 0.25}})
    assert (found.restart.from_progress, found.restart.rate) == (0.3, 0.25)
    assert found.summary()["restart"] == {"from_progress": 0.3, "rate": 0.25}


def test_parameters_are_counted_by_hand():
    # tiny_cnn of width 4 on one channel: 3 x 3 kernels without bias, scale and shift; 3 classes on 8 features.
    sizes = {layer.name: layer.num_parameters for layer in plan(freeze_depth="head_only").layers}
    assert sizes == {"conv1": 9 * 4 + 8, "conv2": 9 * 4 * 8 + 16, "pool": 0, "head": 8 * 3 + 3}


def test_of_a_layer_with_adapters_only_their_weights_learn():
    # LoRA of rank 2 on a 3 x 3 convolution: A is that convolution to 2 channels, B one of 1 x 1 from them.
    found = {layer.name: layer for layer in plan(parameter_efficient={"lora": {"rank": 2}}, freeze_depth=1).layers}
    of_lora = 9 * 4 * 2 + 2 * 8
    assert (found["conv2"].num_parameters, found["conv2"].num_learned) == (9 * 4 * 8 + 16 + of_lora, of_lora)
    assert found["head"].num_learned == found["head"].num_parameters
    assert not found["conv1"].trains


def test_a_layer_in_which_nothing_can_be_given_new_weights_does_not_train():
    layers = text_plan(parameter_efficient={"lora": {"rank": 2}}, freeze_depth="everything").layers
    assert [layer.name for layer in layers if layer.trains] == ["layer1", "layer2", "head"]  # no embeddings


def test_a_pooling_stage_has_nothing_to_train():
    assert [layer.trains for layer in plan(freeze_depth=1).layers] == [False, True, False, True]


def test_nothing_trains_where_the_head_is_solved_for():
    assert not any(layer.trains for layer in plan(method="knn").layers)


def test_the_summary_is_json():
    rows = json.loads(json.dumps(plan(unfreezing=PROBE).summary()))["layers"]
    assert [row["from_epoch"] for row in rows] == [3, 3, None, 1]
    assert [row["from_progress"] for row in rows] == [0.5, 0.5, None, 0.0]


SOUND = [
    {"freeze_depth": 1},
    {"trained_stages": 1},
    {"unfreezing": PROBE},
    {"unfreezing": UNFREEZE_ONE_STAGE_AN_EPOCH, "method": "dann"},
    {"freeze_depth": "last_1", "domain_norm": "separate", "method": "coral"},
    {"method": {"tent": {"start": 0.5}}, "freeze_depth": 1},
]


@pytest.mark.parametrize("changes", SOUND)
def test_what_moves_in_each_phase_is_what_is_planned(changes):
    run = TrialRun(tiny_config(augmentation="affine", **changes), tiny_data(), RULE)
    for epoch in range(run.config.epochs):
        before = {name: value.clone() for name, value in run.task.model.state_dict().items()}
        run.epoch(epoch)
        phase = run.plan.phase_at(epoch / run.config.epochs)
        for stage, layer in zip(run.task.model.backbone.stages, run.plan.layers, strict=False):
            moved = any(
                not torch.equal(a, b) for a, b in zip(stage.state_dict().values(), old(before, layer, run), strict=True)
            )
            assert moved == (layer.rates[phase] > 0 and layer.num_parameters > 0)


def old(before, layer, run):
    number = run.task.model.backbone.names.index(layer.name)
    return [value for name, value in before.items() if name.startswith(f"backbone.stages.{number}.")]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_no_optimiser_breaks_a_sound_plan(optimizer):
    run = TrialRun(tiny_config(optimizer=optimizer, freeze_depth=1, lr_schedule="cosine"), tiny_data(), RULE)
    before = run.task.model.backbone.stages[1][0].weight.clone()
    run.epoch(0)
    assert run._first_step is None  # it was checked
    assert not torch.equal(run.task.model.backbone.stages[1][0].weight, before)


def first_step(run):
    """The network before its first step, with gradients, and nothing moved yet."""
    run._enter_phase(0.0)
    taken = run._first_step
    assert isinstance(taken, FirstStep)
    run.task.train()(*run._step_inputs(next(run._batches.epoch(0)), 0.0, 0, 0)).total.backward()
    return taken


@pytest.fixture
def run():
    return TrialRun(tiny_config(freeze_depth=1, lr_schedule="constant", augmentation="affine"), tiny_data(), RULE)


def test_a_frozen_weight_that_moves_is_an_error(run):
    taken = first_step(run)
    run._optimizer.step()
    with torch.no_grad():
        run.task.model.backbone.stages[0][0].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(TrialFailed, match=r"internal error: .* epoch 1 on, conv1\.0\.weight moved though it is frozen"):
        taken.check(run._optimizer, 1.0)


def test_a_frozen_statistic_that_moves_is_an_error(run):
    taken = first_step(run)
    run._optimizer.step()
    run.task.model.backbone.stages[0].train()(torch.rand(4, 1, 8, 8))
    with pytest.raises(TrialFailed, match=r"conv1\.1\.running_mean moved though it is frozen; conv1\.1\.running_var"):
        taken.check(run._optimizer, 1.0)


def test_a_weight_beside_an_adapter_that_moves_is_an_error():
    config = tiny_config(freeze_depth=1, parameter_efficient="lora", lr_schedule="constant")
    run = TrialRun(config, tiny_data(), RULE)
    taken = first_step(run)
    run._optimizer.step()
    taken.check(run._optimizer, 1.0)
    with torch.no_grad():
        next(value for value in run.task.model.backbone.stages[1].parameters() if not value.requires_grad).add_(1e-3)
    with pytest.raises(TrialFailed, match=r"conv2\..*weight moved though it is kept as it was"):
        taken.check(run._optimizer, 1.0)


def test_a_weight_that_stays_in_spite_of_its_gradient_is_an_error(run):
    taken = first_step(run)
    with pytest.raises(TrialFailed, match=r"conv2\.0\.weight did not move in spite of its gradient"):
        taken.check(run._optimizer, 1.0)


def test_another_rate_than_planned_is_an_error(run):
    taken = first_step(run)
    run._optimizer.param_groups[-1]["lr"] = 0.5
    run._optimizer.step()
    with pytest.raises(TrialFailed, match=r"head\.2\.weight has the learning rate 0\.5 instead of 0\.001"):
        taken.check(run._optimizer, 1.0)
