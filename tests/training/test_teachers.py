"""Self-training in a whole trial: what is saved, what is trained, and that a resume and more ranks change nothing."""

import pytest
from torch.testing import assert_close

from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, train_trial
from tests.training.tiny import RULE, UNFREEZE_ONE_STAGE_AN_EPOCH, Reports, tiny_config, tiny_data

EXACT = {"rtol": 0, "atol": 0}
# With three classes every row is confident at 0.3; 0.4 leaves some out early on.
CHOICES = {
    "mean_teacher": {"decay": 0.9, "threshold": 0.4},
    "distillation": {"start": 0.3},
    "fixmatch": {"threshold": 0.4},
    "pseudo_label": {"threshold": 0.4, "class_balanced": True},
    "iterated_pseudo_label": {},
}
TEACHERS = ["mean_teacher", "distillation"]
AUGMENTATIONS = ["affine", "none"]  # without augmentation the frozen stages come from the cache
CASES = [(method, augmentation) for method in CHOICES for augmentation in AUGMENTATIONS]


def config_of(method, augmentation="affine", **changes):
    return tiny_config(
        method={method: CHOICES[method]},
        augmentation=augmentation,
        batch_size=12,
        unfreezing=UNFREEZE_ONE_STAGE_AN_EPOCH,
        **changes,
    )


def run_of(method):
    return TrialRun(config_of(method), tiny_data(), RULE)


def copied(tensors):
    return {name: value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize("method", TEACHERS)
def test_a_teacher_is_saved_but_takes_no_gradient(method):
    run = run_of(method)
    saved = run.state(run.epoch(0))["task"]
    expected = {f"method.teacher.network.{name}" for name in run.task.model.state_dict()}
    assert {name for name in saved if name.startswith("method")} == expected
    assert all(value.grad is None for value in run.task.method.parameters())


@pytest.mark.parametrize("method", TEACHERS)
def test_a_teacher_is_in_no_group_of_the_optimiser(method):
    run = run_of(method)
    groups = run.state(run.epoch(0))["optimizer"]["param_groups"]
    assert [group["name"] for group in groups] == ["conv1", "conv2", "pool", "head"]


def test_a_mean_teacher_moves_towards_the_network_and_lags_behind():
    run = run_of("mean_teacher")
    before, _ = run.task.method.teacher.network.head.weight.clone(), run.epoch(0)
    taught, learned = run.task.method.teacher.network.head.weight, run.task.model.head.weight
    assert 0 < (taught - before).norm() < (learned - before).norm()


def test_the_teacher_of_distillation_is_the_network_at_its_start():
    run = run_of("distillation")
    run.epoch(0)  # steps at progress 0 and 1/8, then 2/8 and 3/8
    assert_close(run.task.method.teacher.network.state_dict(), run.task.model.state_dict(), **EXACT)
    run.epoch(1)  # its second step compares the network with itself
    snapshot = copied(run.task.method.teacher.state_dict())
    report = run.epoch(2)
    assert_close(run.task.method.teacher.state_dict(), snapshot, **EXACT)
    assert report.losses["consistency"] > 0


@pytest.mark.parametrize(("method", "augmentation"), CASES)
def test_a_trial_interrupted_after_its_phase_began_ends_where_an_uninterrupted_one_ends(method, augmentation, tmp_path):
    config, whole, parts = config_of(method, augmentation), TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    train_trial(config, tiny_data(), Reports(), whole, RULE)
    train_trial(config, tiny_data(), Reports(2), parts, RULE)
    train_trial(config, tiny_data(), Reports(), parts, RULE)
    left, right = parts.load_checkpoint(), whole.load_checkpoint()
    assert_close(left["task"], right["task"], **EXACT)
    assert left["report"]["losses"] == right["report"]["losses"]
