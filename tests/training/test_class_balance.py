"""Classes of the source evened out: which rows are drawn, what they weigh, which are made."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from imblearn.over_sampling import SMOTE
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from torch.testing import assert_close

from ray_tl.adaptation.method import Outputs, StepOutputs, source_losses, task_loss
from ray_tl.adaptation.reweighting import weighted_source_loss
from ray_tl.config import TrialConfig
from ray_tl.errors import InvalidInput
from ray_tl.planning.checks import configuration_problems
from ray_tl.randomness import generator
from ray_tl.study.records import DataSource
from ray_tl.training.batches import PairedBatches
from ray_tl.training.class_balance import (
    CLASS_BALANCES,
    LARGEST_SEED,
    class_counts,
    drawn_rows,
    inverse_frequency_weights,
    repeated_rows,
    smote_seed,
    synthetic_rows,
)
from ray_tl.training.closed_form import ClosedFormRun
from ray_tl.training.data import ActivationCache
from ray_tl.training.network import build_model
from ray_tl.training.run import TrialRun
from tests.tiny_clip import tiny_clip
from tests.training.tiny import RULE, SIDE, further, skewed_pair, tiny_config, tiny_data, tiny_pair
from tests.training.tiny_text import tiny_text_config, tiny_text_data, tiny_text_pair

DIGITS = DataSource(source="digits:mnist", target="digits:optdigits", target_labelled="digits:optdigits")
SKEWED = skewed_pair(16, 6, 2)
EXACT = {"rtol": 0, "atol": 0}
NEEDS_FROZEN = "class_balance 'smote' needs frozen features; classes were sampled evenly instead."


def begun(pair=SKEWED, **changes):
    """A trial in its first phase."""
    run = TrialRun(tiny_config(**changes), tiny_data(pair), RULE)
    run._enter_phase(0.0)
    return run


def drawn(run, epoch):
    return torch.cat([step.source_rows for step in run._batches.epoch(epoch)])


def numbers(run, epoch=0):
    """Of each class among the source rows of an epoch."""
    return np.bincount(run._feed.labels("source")[drawn(run, epoch)], minlength=3).tolist()


def smote_reference(rows, labels, k, seed=3):
    sampler = SMOTE(k_neighbors=k, random_state=smote_seed(seed) & LARGEST_SEED)
    return sampler.fit_resample(np.asarray(rows), np.asarray(labels))


# sampling


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("none", [16, 6, 2]),
        ({"sampling": {"share": 0.5}}, [12, 7, 5]),  # half-way between 16/24, 6/24, 2/24 and a third each
        ("sampling", [8, 8, 8]),
        ("smote", [8, 8, 8]),  # images enter
    ],
)
def test_every_epoch_has_as_many_rows_of_each_class_as_it_is_told(balance, expected):
    run = begun(class_balance=balance)
    assert [numbers(run, epoch) for epoch in range(3)] == [expected] * 3
    assert run._batches.steps_per_epoch == 3


def test_frequent_rows_are_drawn_at_most_once_and_rare_ones_equally_often():
    run = begun(class_balance="sampling")
    times = np.bincount(drawn(run, 0), minlength=24)
    assert times[:16].max() == 1
    assert sorted(times[16:22]) == [1, 1, 1, 1, 2, 2]
    assert times[22:].tolist() == [4, 4]


def test_every_epoch_draws_other_rows_of_the_frequent_class():
    run = begun(class_balance="sampling")
    first, second = (set(drawn(run, epoch)[drawn(run, epoch) < 16].tolist()) for epoch in range(2))
    assert first != second


@pytest.mark.parametrize("world_size", [2, 4])
def test_joint_batches_are_the_same_on_any_number_of_ranks(world_size):
    draw = partial(drawn_rows, torch.tensor(SKEWED.source.labels), torch.full((3,), 1 / 3))
    alone, *ranks = (
        list(PairedBatches(24, 30, 8, rank, size, seed=3, draw_source=draw).epoch(1))
        for rank, size in [(0, 1), *((rank, world_size) for rank in range(world_size))]
    )
    joint = [torch.cat([step.source_rows for step in steps]) for steps in zip(*ranks, strict=True)]
    assert_close(joint, [step.source_rows for step in alone], **EXACT)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_met_to_within_one_row(seed):
    random = np.random.default_rng(seed)
    shares, labels = random.dirichlet(np.ones(7)), np.concatenate([np.arange(7), random.integers(0, 7, 50)])
    rows = drawn_rows(torch.tensor(labels), torch.tensor(shares), 101, generator(seed))
    assert len(rows) == 101
    assert np.abs(np.bincount(labels[rows], minlength=7) - 101 * shares).max() < 1


def test_domains_that_join_the_source_count_where_they_join():
    pair = further(SKEWED, rows=30)  # 10 of each class
    run = begun(pair, class_balance="sampling", transfer={"staged": {"share": 0.3, "pretraining": 0.2}}, epochs=10)
    assert numbers(run) == [8, 8, 8]
    assert run._feed.class_weights is None
    run._enter_phase(0.5)
    assert sum(numbers(run)) == 48  # 6 whole batches of 54 rows
    assert numbers(run) == [16, 16, 16]


# weights


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_weights_are_powers_of_frequencies_with_mean_one_over_the_rows(power):
    labels = np.repeat([0, 1, 2], [16, 6, 2])
    found = inverse_frequency_weights(class_counts(torch.tensor(labels), 3), power).numpy()
    assert found[labels].mean() == pytest.approx(1)
    assert found[2] / found[0] == pytest.approx(8**power)


def test_inverse_frequencies_are_the_balanced_weights_of_scikit_learn():
    labels = np.repeat([0, 1, 2], [16, 6, 2])
    found = inverse_frequency_weights(torch.tensor([16, 6, 2]), 1.0)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(found, expected)


def test_a_class_without_rows_weighs_nothing():
    assert inverse_frequency_weights(torch.tensor([3, 0, 1]), 1.0).tolist() == [pytest.approx(2 / 3), 0, 2]


HARD = np.array([0, 2, 1, 1, 0])
SOFT = np.random.default_rng(4).dirichlet(np.ones(3), 5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("labels", "shares"), [(HARD, np.eye(3)[HARD]), (SOFT, SOFT)], ids=["hard", "soft"])
def test_loss_and_gradient_weigh_each_class_of_a_label_over_the_number_of_rows(labels, shares, smoothing):
    logits = torch.tensor(np.random.default_rng(0).normal(size=(5, 3)), requires_grad=True)
    weights, wanted = np.array([0.4, 1.5, 3.0]), (1 - smoothing) * shares + smoothing / 3
    step = StepOutputs(
        {"source": Outputs(torch.zeros(5, 2), logits)},
        torch.tensor(labels),
        0.5,
        label_smoothing=smoothing,
        class_weights=torch.tensor(weights, dtype=torch.float32),
    )
    loss = task_loss(step)
    loss.backward()
    probabilities = np.exp(logits.detach()) / np.exp(logits.detach()).sum(1, keepdims=True)
    each = weights.astype(np.float32) * wanted
    assert loss.item() == pytest.approx(-(each * np.log(probabilities.numpy())).sum() / 5)
    np.testing.assert_allclose(logits.grad, (probabilities * each.sum(1, keepdims=True) - each) / 5, atol=1e-12)


def test_it_is_the_weighted_cross_entropy_of_torch_but_for_what_it_is_divided_by():
    logits, labels, weights = torch.randn(5, 3, generator=generator(0)), torch.tensor(HARD), torch.tensor([0.4, 1.5, 3])
    step = StepOutputs({"source": Outputs(logits, logits)}, labels, 0.5, class_weights=weights)
    expected = torch.nn.CrossEntropyLoss(weights)(logits, labels) * weights[labels].sum() / 5
    assert_close(task_loss(step), expected)


def test_weights_of_rows_and_of_classes_are_multiplied():
    logits, rows = torch.randn(5, 3, generator=generator(0)), torch.tensor([0.5, 2.0, 1.0, 1.0, 0.5])
    step = StepOutputs(
        {"source": Outputs(logits, logits)}, torch.tensor(HARD), 0.5, class_weights=torch.tensor([0.4, 1.5, 3])
    )
    assert_close(weighted_source_loss(step, rows), (rows * source_losses(step)).sum() / 5)
    plain = torch.nn.functional.cross_entropy(logits, torch.tensor(HARD), reduction="none")
    assert_close(weighted_source_loss(step, rows), (rows * torch.tensor([0.4, 3, 1.5, 1.5, 0.4]) * plain).mean())


@pytest.mark.parametrize("mixing", ["none", "cutmix"])
def test_a_trial_takes_the_weights_of_its_source(mixing):
    run = begun(class_balance={"weights": {"power": 0.5}}, mixing=mixing)
    inputs = run._step_inputs(next(run._batches.epoch(0)), 0.0, 0, 0)
    loss = run.task.eval()(*inputs).named["task"]
    weights = (24 / 3) / np.array([16, 6, 2]) ** 0.5 * 3 / np.sum(np.array([16, 6, 2]) ** 0.5)
    shares = inputs[2].numpy() if mixing == "cutmix" else np.eye(3)[inputs[2]]
    log_probabilities = run.task.model(inputs[0]["source"], 0, ("source",))[1].log_softmax(1).detach().numpy()
    assert loss.item() == pytest.approx(-(weights * shares * log_probabilities).sum() / 8, rel=1e-5)


METHODS = [
    "source_only",
    "source_and_target",
    "tradaboost",
    "importance_weighting",
    "entropy_weighting",
    "dann",
    "pada",
]


@pytest.mark.parametrize("method", [*METHODS, "kernel_mean_matching", "deepjdot", "pada"])
def test_the_task_loss_of_every_method_rises_with_the_weights_where_rare_rows_are_wrong(method):
    losses = {}
    for balance in ("none", "weights"):
        run = begun(skewed_pair(16, 6, 2, num_labelled=9), method=method, class_balance=balance, batch_size=24)
        with torch.no_grad():
            run.task.model.head.bias += torch.tensor([6.0, 0.0, -6.0])
        inputs = run._step_inputs(next(run._batches.epoch(0)), 0.0, 0, 0)
        losses[balance] = run.task.eval()(*inputs).named["task"].item()
    assert losses["weights"] > 1.3 * losses["none"]


# new rows


def frozen_features(pair=SKEWED):
    model = build_model(tiny_config(), tiny_data(pair))
    return tiny_data(pair).inputs(model, 3).rows["source"]


@pytest.mark.parametrize(("k", "counts", "used"), [(3, (16, 6, 4), 3), (5, (16, 6, 2), 1)])
def test_frozen_features_are_joined_by_the_rows_that_imblearn_makes(k, counts, used):
    pair = skewed_pair(*counts)
    feed = begun(pair, class_balance={"smote": {"k": k}}, freeze_depth=3)._feed
    rows, labels = smote_reference(frozen_features(pair), pair.source.labels, used)
    assert_close(feed.inputs.rows["source"], torch.tensor(rows), **EXACT)
    assert_close(feed.labels("source"), torch.tensor(labels), **EXACT)
    assert np.bincount(labels).tolist() == [16, 16, 16]


def test_an_epoch_with_new_rows_is_as_long_as_before_and_takes_no_row_twice():
    run = begun(class_balance="smote", freeze_depth=3)
    assert numbers(run) == [8, 8, 8]
    assert np.bincount(drawn(run, 0)).max() == 1
    assert run._batches.num_source == 24


def test_a_class_with_one_row_is_repeated_and_makes_others_no_poorer():
    labels = torch.tensor([0] * 9 + [1] * 5 + [2])
    rows = torch.randn(15, 4, generator=generator(1))
    made, made_labels = synthetic_rows(rows, labels, 3, smote_seed(3))
    expected, _ = smote_reference(rows[:14], labels[:14], 3)
    assert_close(made[:4], torch.tensor(expected[14:]), **EXACT)
    assert_close(made[4:], rows[14:].expand(8, 4), **EXACT)
    assert made_labels.tolist() == [1] * 4 + [2] * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_new_rows_have_the_precision_of_the_others(dtype):
    rows = torch.randn(12, 4, generator=generator(1)).to(dtype)
    made, labels = synthetic_rows(rows, torch.tensor([0] * 8 + [1] * 4), 3, 7)
    assert (made.dtype, made.shape, labels.tolist()) == (dtype, (4, 4), [1] * 4)


def test_where_classes_are_equal_nothing_is_made():
    made, labels = synthetic_rows(torch.ones(6, 2), torch.tensor([0, 1, 2] * 2), 5, 7)
    assert (made.shape, labels.shape) == ((0, 2), (0,))


def test_new_rows_are_mixed_like_any_others():
    run = begun(class_balance="smote", mixing="mixup", freeze_depth=3, batch_size=24)
    step = next(run._batches.epoch(0))
    views, rows, labels, _ = run._feed.views(step, run.task.method, 0.0, 0, 0)
    assert int(rows["source"].max()) >= 24
    assert views["source"].shape == (24, 8)
    assert_close(labels.sum(dim=1), torch.ones(24))
    assert labels.sum(dim=0).tolist() == pytest.approx([8, 8, 8], abs=4)


def test_frozen_features_of_texts_get_new_rows_too():
    pair = tiny_text_pair()
    few = np.flatnonzero((pair.source.labels == 0) | (np.arange(24) < 8))
    config = tiny_text_config(class_balance="smote", freeze_depth="head_only")
    run = TrialRun(config, tiny_text_data(replace(pair, source=pair.source.take(few))), RULE)
    run._enter_phase(0.0)
    assert np.bincount(run._feed.labels("source")).tolist() == [12, 12]
    assert run._feed.inputs.rows["source"].shape == (24, 16)


def test_new_rows_are_made_of_what_has_joined_the_source():
    transfer = {"staged": {"share": 0.3, "pretraining": 0.2}}
    run = begun(further(SKEWED, rows=30), class_balance="smote", transfer=transfer, freeze_depth=3, epochs=10)
    assert np.bincount(run._feed.labels("source")).tolist() == [16, 16, 16]
    run._enter_phase(0.5)
    assert np.bincount(run._feed.labels("source")).tolist() == [26, 26, 26]
    assert len(run._feed.inputs.rows["source"]) == 78


@pytest.mark.parametrize(
    "changes",
    [{"freeze_depth": 2}, {"freeze_depth": 3, "augmentation": "affine"}, {"freeze_depth": 3, "mixing": "cutmix"}],
)
def test_findings_say_where_rows_were_sampled_instead_of_made(changes):
    report = TrialRun(tiny_config(class_balance="smote", **changes), tiny_data(SKEWED), RULE).epoch(0)
    assert NEEDS_FROZEN in report.findings


def test_a_first_phase_with_frozen_features_has_new_rows_and_the_second_has_not():
    probe = {"unfreezing": {"probe_then_fine_tune": {"until": 0.3, "rate_after": 0.1}}}
    run = TrialRun(tiny_config(class_balance="smote", **probe), tiny_data(SKEWED), RULE)
    assert [NEEDS_FROZEN in run.epoch(epoch).findings for epoch in range(3)] == [False, False, True]


def test_new_rows_that_would_take_too_much_memory_are_not_made():
    data = tiny_data(skewed_pair(60, 2, 2))
    data.cache = ActivationCache(120 * 8 * 4)  # room for the 112 rows that there are, and not for 3 * 60
    run = TrialRun(tiny_config(class_balance="smote", freeze_depth=3), data, RULE)
    run._enter_phase(0.0)
    (line,) = run._feed.notes()
    assert "needs frozen features that fit into memory with the new ones; classes were sampled evenly" in line
    assert run._feed.inputs.start == 3
    assert sum(numbers(run)) == len(run._feed.labels("source")) == 64


# heads that are solved for


def solved(pair, balance, method="logistic", **changes):
    run = ClosedFormRun(tiny_config(method=method, class_balance=balance, **changes), tiny_data(pair), RULE)
    return run, run.epoch(3)


def probe(rows, labels, images):
    classifier = LogisticRegression(solver="newton-cg", tol=1e-8, max_iter=10_000)
    pipeline = make_pipeline(StandardScaler(), classifier).fit(np.float64(rows), labels)
    model = build_model(tiny_config(), tiny_data())
    return pipeline.predict_proba(tiny_data().inputs(model, 3).rows["target"].double().numpy())


@pytest.mark.parametrize("balance", ["sampling", "weights"])
def test_a_solver_sees_rows_of_rare_classes_repeatedly(balance):
    pair = skewed_pair(16, 8, 4)
    labels = np.repeat([0, 1, 2], [16, 8, 4])
    repeated = np.repeat(np.arange(28), np.array([1, 2, 4])[labels])
    run, report = solved(pair, balance)
    expected = probe(frozen_features(pair)[repeated], labels[repeated], pair.target.inputs)
    np.testing.assert_allclose(run.evidence["target"], expected, atol=1e-4)
    assert not any("class_balance" in line for line in report.findings)


def test_a_solver_sees_new_rows_and_labelled_target_rows_make_none():
    pair = skewed_pair(16, 6, 2, num_labelled=7)
    run, _ = solved(pair, "smote")
    rows, labels = smote_reference(frozen_features(pair), pair.source.labels, 1)
    few = tiny_data(pair).inputs(build_model(tiny_config(), tiny_data(pair)), 3).rows["target_labelled"]
    labels = np.concatenate([labels, pair.target_labelled.labels])
    expected = probe(np.concatenate([rows, few]), labels, pair.target.inputs)
    np.testing.assert_allclose(run.evidence["target"], expected, atol=1e-4)


def test_shares_between_are_met_by_repeating_as_well_as_rows_allow():
    labels = torch.tensor([0] * 16 + [1] * 6 + [2] * 2)
    shares = CLASS_BALANCES.create("sampling", {"share": 0.5}).shares(torch.tensor([16, 6, 2]))
    rows = repeated_rows(labels, shares, generator(0))
    assert np.bincount(labels[rows]).tolist() == [16, 9, 7]  # 16 * (1, 7/12, 5/12)
    assert rows.unique().tolist() == list(range(24))


def test_a_method_that_sees_no_source_leaves_it_out_and_says_so():
    clip = {"clip": {"weights": tiny_clip(1, SIDE)}}
    _, report = solved(SKEWED, "sampling", method="zero_shot", backbone=clip)
    assert "class_balance 'sampling' was left out: 'zero_shot' trains nothing." in report.findings


# what is refused, and what stays as it was


@pytest.mark.parametrize(
    ("balance", "said"),
    [
        ({"sampling": {"share": 0.0}}, "sampling.share=0.0 is out of range; choose above 0, up to 1"),
        ({"sampling": {"share": 1.1}}, "sampling.share=1.1 is out of range"),
        ({"weights": {"power": -1.0}}, "weights.power=-1.0 is out of range"),
        ({"smote": {"k": 0}}, "smote.k=0 must be 1 or more; 5 is usual"),
    ],
)
def test_parameters_out_of_range_are_named_before_a_search_starts(balance, said):
    (line,) = configuration_problems([tiny_config(class_balance=balance)], DIGITS)
    assert said in line


@pytest.mark.parametrize(
    ("method", "balance", "said"),
    [
        ("fine_tune", "weights", "looks at no source example; choose class_balance by method"),
        ("tradaboost", "smote", "remembers something of each source example from epoch to epoch"),
    ],
)
def test_a_method_to_which_it_means_nothing_is_named(method, balance, said):
    config = tiny_config(method=method, class_balance=balance)
    (line,) = configuration_problems([config], DIGITS)
    assert said in line
    with pytest.raises(InvalidInput, match=said):
        TrialRun(config, tiny_data(tiny_pair(num_labelled=7)), RULE)


def test_a_configuration_from_before_is_one_without():
    old = tiny_config().model_dump(exclude={"class_balance"})
    assert TrialConfig.model_validate(old).class_balance.name == "none"


# what it is for


def recalls(balance):
    """Of each class in the even hold-out, after a head was trained on a source of 60, 6 and 6 rows."""
    config = tiny_config(class_balance=balance, freeze_depth=3, epochs=12, optimizer={"adamw": {"lr": 0.1}})
    run = TrialRun(config, tiny_data(skewed_pair(60, 6, 6, num_holdout=90)), RULE)
    for epoch in range(config.epochs):
        run.epoch(epoch)
    predicted = run.evidence["source_holdout"].argmax(axis=1)
    return np.array([(predicted[number::3] == number).mean() for number in range(3)])  # classes take turns


def test_without_balance_rare_classes_are_given_up():
    assert recalls("none")[1:].max() < 0.3


@pytest.mark.parametrize("balance", ["sampling", "weights", "smote"])
def test_with_balance_every_class_is_found(balance):
    assert recalls(balance).min() > 0.8
