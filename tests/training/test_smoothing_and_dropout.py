"""Label smoothing reaches the task loss of every method; dropout before the head leaves the features whole."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.adaptation.method import Outputs, StepOutputs, task_loss
from ray_tl.adaptation.reweighting import weighted_task_loss
from ray_tl.adaptation.target_labels import target_task_loss
from ray_tl.training.run import TrialRun
from tests.training.tiny import RULE, tiny_config, tiny_data, tiny_pair


def smoothed_reference(logits, labels, smoothing):
    """Mean over rows of -sum q log p, where q is the label with `smoothing` of it spread over all classes."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        log_probabilities = row - np.log(np.exp(row).sum())
        wanted = np.full(len(row), smoothing / len(row))
        wanted[label] += 1 - smoothing
        losses.append(-(wanted * log_probabilities).sum())
    return np.mean(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_task_losses_are_cross_entropy_with_smoothed_labels(smoothing):
    logits, labels = np.random.default_rng(0).normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    outputs = Outputs(torch.zeros(5, 2), torch.tensor(logits))
    few = torch.tensor(labels)
    step = StepOutputs({"source": outputs, "target_labelled": outputs}, few, 0.5, 0, few, smoothing)
    weighted = weighted_task_loss(torch.tensor(logits), torch.ones(5), labels=few, smoothing=smoothing)
    expected = smoothed_reference(logits, labels, smoothing)
    for loss in (task_loss(step), target_task_loss(step), weighted):
        assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "method", ["source_only", "fine_tune", "source_and_target", "tradaboost", "importance_weighting", "dann"]
)
def test_a_methods_task_loss_rises_with_smoothing_once_it_is_sure(method):
    data = tiny_data(tiny_pair(num_labelled=9))
    losses = []
    for smoothing in (0.0, 0.3):
        run = TrialRun(tiny_config(method=method, label_smoothing=smoothing), data, RULE)
        with torch.no_grad():
            run.task.model.head.weight *= 20
        inputs = run._step_inputs(next(run._batches.epoch(0)), 0.0, 0, 0)
        losses.append(run.task.eval()(*inputs).named["task"].item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_dropout_hides_features_from_the_head_alone_and_in_training_alone():
    model = TrialRun(tiny_config(dropout=0.5), tiny_data(), RULE).task.model
    rows = torch.from_numpy(tiny_pair().source.inputs)
    features, logits = model.train()(rows, 0, ("source",))
    assert not torch.allclose(model.head(features), logits)
    features, logits = model.eval()(rows, 0, ("source",))
    assert_close(logits, model.head(features))


@pytest.mark.parametrize("field", ["dropout", "label_smoothing"])
@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_share_out_of_range_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        tiny_config(**{field: value})
