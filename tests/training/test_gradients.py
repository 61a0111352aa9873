"""Gradient masking against NumPy, and in a trial against the gradients of its losses one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.training.gradients import GRADIENT_MASKING, without_conflict
from ray_tl.training.regularisers import REGULARISERS
from ray_tl.training.run import TrialRun
from tests.training.tiny import RULE, tiny_config, tiny_data, tiny_pair


def projected(gradient, task):
    """Yu et al., 2020, algorithm 1, in NumPy."""
    inner = float(gradient @ task)
    return gradient - inner / float(task @ task) * task if inner < 0 else gradient


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_the_conflicting_part_is_removed_and_nothing_else(seed, width):
    gradient, task = np.random.default_rng(seed).normal(size=(2, width))
    found = without_conflict(torch.tensor(gradient), torch.tensor(task)).numpy()
    np.testing.assert_allclose(found, projected(gradient, task), rtol=1e-9, atol=1e-12)
    assert found @ task >= -1e-9


def test_a_task_without_gradient_opposes_nothing():
    gradient = torch.tensor([1.0, -2.0])
    assert_close(without_conflict(gradient, torch.zeros(2)), gradient, rtol=0, atol=0)


def trial(method, **changes):
    return TrialRun(tiny_config(method=method, **changes), tiny_data(tiny_pair(num_labelled=9)), RULE)


def opposing(run):
    """Losses of a step in which adaptation and source are bent to oppose the task on the head and the last stage."""
    run._enter_phase(0.0)
    inputs = run._step_inputs(next(run._batches.epoch(0)), 0.5, 0, 0)
    losses = run.task(*inputs)
    return losses._replace(total=losses.total - 3 * losses.named["task"])


def slopes(run, loss):
    values = [value for value in run.task.parameters() if value.requires_grad]
    found = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
    names = [name for name, value in run.task.named_parameters() if value.requires_grad]
    return {
        name: np.zeros(value.shape) if slope is None else slope.numpy().astype(float)
        for name, value, slope in zip(names, values, found, strict=True)
    }


def flat(slopes, names):
    return np.concatenate([slopes[name].ravel() for name in names])


def stage_of(name):
    words = name.split(".")
    return ".".join(words[:4]) if words[1] == "backbone" else words[0]


@pytest.mark.parametrize("scope", ["network", "stage"])
def test_a_step_has_the_task_gradient_plus_what_of_the_adaptation_does_not_oppose_it(scope):
    run = trial("dann", target_label_weight=0.0, loss_weighting="uncertainty")
    losses = opposing(run)
    task, whole = (slopes(run, loss) for loss in (losses.weights["task"] * losses.named["task"], losses.total))
    run_masking(run, losses, scope)
    groups = {}
    for name in task:
        groups.setdefault("all" if scope == "network" else stage_of(name), []).append(name)
    for names in groups.values():
        mine = flat(task, names)
        expected = mine + projected(flat(whole, names) - mine, mine) if mine.any() else flat(whole, names)
        np.testing.assert_allclose(flat(gradients(run), names), expected, rtol=1e-4, atol=1e-6)


def run_masking(run, losses, scope="network"):
    masking = GRADIENT_MASKING.create("project", {"scope": scope})
    masking.backward(run.task, losses)
    return masking.figures()


def gradients(run):
    return {name: value.grad.numpy() for name, value in run.task.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("method", ["coral", "source_and_target", "tradaboost"])
def test_labelled_target_examples_come_first_then_the_source_then_the_adaptation(method):
    run = trial(method, target_label_weight=0.3)
    losses = opposing(run)
    target, task, whole = (slopes(run, loss) for loss in (losses.of_target, losses.named["task"], losses.total))
    run_masking(run, losses)
    names = list(task)
    first = flat(target, names)
    second = first + projected(flat(task, names) - first, first)
    expected = second + projected(flat(whole, names) - flat(task, names), second)
    np.testing.assert_allclose(flat(gradients(run), names), expected, rtol=1e-4, atol=1e-6)


def test_the_regulariser_pulls_as_it_would_anyway():
    plain, held = (trial("dann", regulariser=name) for name in ("none", {"l2_sp": {"beta": 5.0}}))
    for run in (plain, held):
        run_masking(run, opposing(run))
    pull = 5.0 * held.task.model.head.weight.detach().numpy()
    name = "model.head.weight"
    np.testing.assert_allclose(gradients(held)[name] - gradients(plain)[name], pull, rtol=1e-4, atol=1e-5)


def test_figures_say_how_often_and_how_much():
    run = trial("coral", target_label_weight=0.0)
    losses = opposing(run)
    adaptation, task = (slopes(run, loss) for loss in (losses.parts()[1], losses.parts()[0]))
    cosine = np.dot(*(flat(each, task) / np.linalg.norm(flat(each, task)) for each in (adaptation, task)))
    figures = run_masking(run, losses)
    assert figures == {"gradient_conflict": 1.0, "gradient_removed": pytest.approx(-cosine, rel=1e-4)}


def test_a_task_alone_trains_as_without_masking_and_has_no_figures():
    plain, masked = (trial("source_only", gradient_masking=name) for name in ("none", "project"))
    reports = [run.epoch(0) for run in (plain, masked)]
    assert_close(masked.task.state_dict(), plain.task.state_dict())
    assert reports[1].health.keys() == reports[0].health.keys()


def test_a_trial_reports_its_conflicts():
    health = trial("dann", gradient_masking="project").epoch(0).health
    assert 0 <= health["gradient_removed"] <= health["gradient_conflict"] <= 1


def test_an_unknown_scope_is_refused():
    with pytest.raises(InvalidInput, match=r"project.scope='layer' is not of type 'network' \| 'stage'"):
        GRADIENT_MASKING.create("project", {"scope": "layer"})


@pytest.mark.parametrize("regulariser", REGULARISERS.names())
def test_a_head_on_frozen_features_is_masked_beside_any_regulariser(regulariser):
    run = trial("coral", gradient_masking="project", regulariser=regulariser, freeze_depth="head_only")
    before = run.task.model.head.weight.clone()
    run.epoch(0)
    assert not torch.equal(run.task.model.head.weight, before)
