"""From source to target over domains between them: who plays which role when, and what never changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.errors import InvalidInput
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, train_trial
from ray_tl.training.transfer import TRANSFERS, Leg, TransferContext
from tests.training.tiny import RULE, Reports, further, tiny_config, tiny_data, tiny_pair

STAGED = {"staged": {"share": 0.25}}  # of four epochs one for each domain, and two for the target
EXACT = {"rtol": 0, "atol": 0}


def run_of(pair=None, **changes):
    config = tiny_config(**{"method": "coral", "transfer": STAGED, **changes})
    return TrialRun(config, tiny_data(pair or further(tiny_pair())), RULE)


def legs(epochs: int, count: int, **params: float) -> list[Leg]:
    way = TRANSFERS.create("staged", params, TransferContext(count))
    return [way.leg_at(epoch / epochs) for epoch in range(epochs)]


def test_domains_stand_in_the_targets_place_in_turn_for_their_share():
    assert [leg.target for leg in legs(10, 3, share=0.2)] == [0, 0, 1, 1, 2, 2, None, None, None, None]


def test_labelled_examples_of_a_domain_join_when_its_turn_comes_and_stay():
    assert [leg.num_joined for leg in legs(10, 3, share=0.2)] == [1, 1, 2, 2, 3, 3, 3, 3, 3, 3]


def test_in_pretraining_only_the_task_counts_and_nothing_has_joined():
    found = legs(10, 1, share=0.3, pretraining=0.2)
    assert [leg.adapts for leg in found] == [False] * 2 + [True] * 8
    assert [leg.target for leg in found] == [0, 0, 0, 0, 0, None, None, None, None, None]
    assert [leg.num_joined for leg in found] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_domain_in_whose_share_no_epoch_begins_is_passed_over():
    assert [leg.target for leg in legs(2, 2, share=0.25)] == [0, None]


@pytest.mark.parametrize("share", [0.1, 0.15, 0.2, 0.3])
def test_every_way_ends_at_the_target(share):
    assert [legs(epochs, 3, share=share)[-1].target for epochs in range(10, 40)] == [None] * 30


@pytest.mark.parametrize(
    ("count", "params", "said"),
    [
        (0, {}, "needs intermediate domains; give their folders, in order, with --intermediate"),
        (2, {"share": 0.5}, "must leave some of the progress to the target"),
        (1, {"share": 0.0}, "must leave some of the progress to the target"),
        (1, {"share": 0.5, "pretraining": 0.6}, "must leave some of the progress to the target"),
        (1, {"pretraining": -0.1}, "must leave some of the progress to the target"),
    ],
)
def test_a_way_that_can_not_be_gone_is_refused(count, params, said):
    with pytest.raises(InvalidInput, match=said):
        TRANSFERS.create("staged", params, TransferContext(count))


def roles(run: TrialRun, progress: float) -> tuple[np.ndarray, int]:
    """What plays the target, and how many source rows are drawn from."""
    run._enter_phase(progress)
    return run._feed.inputs.rows["target"].numpy(), run._batches.num_source


def test_rows_of_a_trial_follow_its_legs():
    pair = further(tiny_pair())
    run, (labelled, unlabelled) = run_of(pair), pair.intermediate
    for progress, played, size in [(0.0, labelled, 44), (0.25, unlabelled, 44), (0.5, pair.target, 44)]:
        rows, num_source = roles(run, progress)
        np.testing.assert_array_equal(rows, played.inputs)
        assert num_source == size  # 24 of the source and 20 of the first domain; the second has no labels


def test_joined_examples_come_with_their_labels():
    pair = further(tiny_pair())
    run = run_of(pair)
    run._enter_phase(0.0)
    joined = run._feed.inputs.rows["source"][24:]
    np.testing.assert_array_equal(joined.numpy(), pair.intermediate[0].inputs)
    assert_close(run._feed.labels("source")[24:], torch.from_numpy(pair.intermediate[0].labels))


def test_pretraining_moves_the_network_as_a_domain_loss_of_weight_nothing_does():
    pair = further(tiny_pair())
    pair = replace(pair, intermediate=pair.intermediate[1:])
    beside = replace(pair, target=pair.intermediate[0], intermediate=())
    first = run_of(pair, transfer={"staged": {"share": 0.25, "pretraining": 0.25}})
    second = run_of(beside, transfer="direct", loss_weighting={"constant": {"domain": 0.0}})
    weights = [run.epoch(0).weights for run in (first, second)]
    assert weights == [{"task": 1.0, "domain": 0.0}] * 2
    assert_close(first.task.model.state_dict(), second.task.model.state_dict(), **EXACT)


def test_the_doctor_does_not_mind_what_is_not_meant_to_count_yet():
    pair = further(tiny_pair())
    staged = {"staged": {"share": 0.1, "pretraining": 0.7}}
    report = run_of(replace(pair, intermediate=pair.intermediate[:1]), transfer=staged).epoch(2)
    assert [line for line in report.findings if "zero gradient" in line] == []


def test_evidence_is_always_of_the_target():
    run = run_of()
    report = run.epoch(0)
    assert run.evidence["target"].shape == (30, 3)
    assert sum(report.histogram) == pytest.approx(1.0)


@pytest.mark.parametrize("method", ["coral", "adabn", "iterated_pseudo_label", "kernel_mean_matching", "fixmatch"])
@pytest.mark.parametrize("frozen", [0, 3])
def test_methods_of_every_kind_go_the_whole_way(method, frozen):
    run = run_of(method=method, freeze_depth=frozen)
    assert [run.epoch(epoch).cached_stages for epoch in range(4)] == [frozen] * 4


def test_what_is_on_the_way_decides():
    pair = further(tiny_pair())
    changed = [replace(domain, inputs=np.zeros_like(domain.inputs)) for domain in pair.intermediate]
    plain = run_of(pair).epoch(0).losses
    assert run_of(replace(pair, intermediate=(changed[0], pair.intermediate[1]))).epoch(0).losses != plain
    assert run_of(replace(pair, intermediate=(pair.intermediate[0], changed[1]))).epoch(0).losses == plain


def test_on_the_direct_way_domains_between_change_nothing():
    direct = {"transfer": "direct"}
    assert run_of(**direct).epoch(0).losses == run_of(tiny_pair(), **direct).epoch(0).losses


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_an_interrupted_trial_ends_where_an_uninterrupted_one_ends(stop_at, tmp_path):
    config = tiny_config(method="dann", transfer=STAGED, multi_task="auxiliary", augmentation="affine")
    whole, parts, data = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1), tiny_data(further(tiny_pair()))
    train_trial(config, data, Reports(), whole, RULE)
    train_trial(config, data, Reports(stop_at), parts, RULE)
    train_trial(config, tiny_data(further(tiny_pair())), Reports(), parts, RULE)
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], **EXACT)
