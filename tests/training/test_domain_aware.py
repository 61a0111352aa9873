"""Trials with taps at several stages, and with statistics of normalisation by domain or by example."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ray_tl.adaptation import Outputs, StepOutputs
from ray_tl.models.domain_norm import keep_target_norms
from ray_tl.promotion.bundle import Lineage, load_bundle, spec_of, write_bundle
from ray_tl.training.data import ActivationCache
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, evaluate_checkpoint, load_model, train_trial
from tests.gloo import run_on_ranks
from tests.training.tiny import (
    RECORDED,
    RULE,
    UNFREEZE_ONE_STAGE_AN_EPOCH,
    Reports,
    tiny_config,
    tiny_data,
    tiny_pair,
)

BOTTLENECK = {"bottleneck": {"width": 6, "dropout": 0.3}}
CHOICES: dict[str, dict] = {
    "multi_scale": {"features": {"multi_scale": {"num_taps": 2}}},
    "separate": {"domain_norm": "separate", "adaptor": BOTTLENECK},
    "own_batch": {"domain_norm": "own_batch", "adaptor": BOTTLENECK},
    "instance": {"domain_norm": "instance"},
    "all": {"features": {"multi_scale": {"num_taps": 1}}, "domain_norm": "separate", "adaptor": BOTTLENECK},
}
METHODS: dict[str, dict] = {
    "source_only": {},
    "adda": {"start": 0.25},
    "coral": {},
    "fine_tune": {},
    "mean_teacher": {"decay": 0.9, "threshold": 0.4},
    "tent": {"start": 0.25},
}
CASES = [(method, choice) for method in METHODS for choice in ("multi_scale", "separate", "own_batch", "instance")]
RESUMED = [("adda", "all"), ("coral", "own_batch"), ("mean_teacher", "all"), ("coral", "instance")]
ON_RANKS = [
    ("adda", "all"),
    ("adabn", "separate"),
    ("coral", "all"),
    ("coral", "instance"),
    ("mcc", "own_batch"),
    ("tent", "separate"),
]
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-6, "atol": 1e-10}

every_choice = pytest.mark.parametrize("choice", CHOICES)


def config_of(method, choice, **changes):
    return tiny_config(method={method: METHODS.get(method)}, **CHOICES[choice], **changes)


def few_labels():
    return tiny_data(tiny_pair(num_labelled=7))


def trained(config, epochs=1, data=None):
    run = TrialRun(config, data or few_labels(), RULE)
    return run, [run.epoch(epoch) for epoch in range(epochs)]


@pytest.mark.parametrize(("method", "choice"), CASES)
def test_every_part_of_the_network_trains_with_every_kind_of_method(method, choice):
    run = TrialRun(config_of(method, choice, augmentation="affine"), few_labels(), RULE)
    before = {name: value.clone() for name, value in run.task.model.named_parameters()}
    report = run.epoch(0)
    assert all(math.isfinite(value) for value in report.losses.values())
    assert [name for name, value in run.task.model.named_parameters() if torch.equal(value, before[name])] == []
    assert [name for name, part in run.task.named_parameters() if part.requires_grad and part.grad is None] == []


# The activation cache.


@pytest.mark.parametrize(("num_taps", "start"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("method", ["coral", "mean_teacher"])
def test_the_cut_of_the_cache_is_at_the_first_tap(method, num_taps, start):
    config = tiny_config(method=method, freeze_depth=3, features={"multi_scale": {"num_taps": num_taps}})
    run, reports = trained(config, epochs=2)
    assert [report.cached_stages for report in reports] == [start, start]
    assert [report.freeze_depth for report in reports] == [3, 3]
    assert {name for name, value in run.task.model.named_parameters() if value.grad is not None} >= {
        "features.taps.0.pools.2.squeeze.weight"
    }


@every_choice
def test_training_on_cached_activations_gives_the_losses_of_training_on_images(choice):
    config = config_of("coral", choice, unfreezing=UNFREEZE_ONE_STAGE_AN_EPOCH, optimizer="sgd")
    without = few_labels()
    without.cache = ActivationCache(0)
    (_, cached), (_, computed) = trained(config, 4), trained(config, 4, without)
    assert [report.cached_stages for report in computed] == [0] * 4 != [report.cached_stages for report in cached]
    assert_close(losses(cached), losses(computed), rtol=1e-4, atol=1e-5)


def losses(reports):
    return torch.tensor([list(report.losses.values()) for report in reports])


# Statistics of each domain.


def statistics(run, domain=None):
    norm = run.task.model.backbone.stages[0][1]
    norm = norm.norms[domain] if domain else norm
    return [norm.running_mean, norm.running_var]


def test_a_trial_that_never_looks_at_the_target_is_that_of_shared_statistics():
    (_, separate), (_, shared) = (
        trained(tiny_config(domain_norm=norm), 2, tiny_data()) for norm in ("separate", "shared")
    )
    assert [replace(report, seconds=0.0) for report in separate] == [replace(report, seconds=0.0) for report in shared]


def test_the_hold_out_is_evaluated_as_source_and_all_else_as_target():
    run, _ = trained(config_of("coral", "separate"))
    model = run.task.model.eval()
    for name, domain in {"source_holdout": "source", "target": "target", "target_test": "target"}.items():
        logits = model(run.data.rows[name], 0, (domain,))[1]
        assert_close(torch.tensor(run.evidence[name]), logits.softmax(1).detach(), rtol=1e-5, atol=1e-6)
    as_target = model(run.data.rows["source_holdout"])[1].softmax(1)
    assert (torch.tensor(run.evidence["source_holdout"]) - as_target).abs().max() > 1e-3


def test_adabn_sets_the_statistics_of_the_target_and_leaves_those_of_the_source():
    (adapted, _), (source_only, _) = (
        trained(tiny_config(method=method, domain_norm="separate"), 2, tiny_data())
        for method in ("adabn", "source_only")
    )
    shared, _ = trained(tiny_config(method="adabn"), 2, tiny_data())
    assert_close(statistics(adapted, "target"), statistics(shared), **EXACT)
    assert_close(statistics(adapted, "source"), statistics(source_only, "source"), **EXACT)


def test_frozen_stages_keep_their_statistics_whatever_the_domain():
    run, _ = trained(tiny_config(method="coral", domain_norm="separate", freeze_depth=1, augmentation="affine"))
    assert_close(statistics(run), [torch.zeros(4), torch.ones(4)])


def test_the_source_encoder_of_adda_normalises_by_the_source():
    run, _ = trained(config_of("adda", "separate"), 2)
    encoder, images = run.task.method.source_encoder, run.data.rows["source"][:6]
    step = StepOutputs({"source": Outputs(images, images, images)}, torch.zeros(6), 0.5)
    assert_close(encoder.source_features(step), encoder.network(images, 0, ("source",))[0], **EXACT)
    assert not torch.equal(encoder.source_features(step), encoder.network(images)[0])


# Resume, checkpoints, bundles.


@pytest.mark.parametrize(("method", "choice"), RESUMED)
def test_an_interrupted_trial_ends_where_an_uninterrupted_one_ends(method, choice, tmp_path):
    config = config_of(method, choice, optimizer="adamw", unfreezing=UNFREEZE_ONE_STAGE_AN_EPOCH)
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    for files, stop_at in ((whole, None), (parts, 2), (parts, None)):
        train_trial(config, few_labels(), Reports(stop_at), files, RULE)
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], **EXACT)
    assert evaluate_checkpoint(config, few_labels(), whole, RULE).agreement == 1.0


@pytest.mark.parametrize("trains", [{"freeze_depth": 1}, {"freeze_depth": "everything", "trained_stages": 1}])
@every_choice
def test_a_bundle_predicts_on_the_target_what_the_trial_did(choice, trains, tmp_path):
    config, files, data = config_of("coral", choice, epochs=2, **trains), TrialFiles(tmp_path, 0), few_labels()
    train_trial(config, data, Reports(), files, RULE)
    model = load_model(config, data, files).eval()
    keep_target_norms(model)
    spec = spec_of(config, data.pair.preprocessing, data.pair.source.classes)
    bundle = load_bundle(write_bundle(tmp_path / "v1", model, spec, lineage(config)))
    assert bundle.spec == spec
    assert [name for name in bundle.model.state_dict() if "norms" in name] == []
    expected = torch.tensor(files.load_evidence()["target"])
    assert_close(torch.tensor(bundle.probabilities(data.rows["target"].numpy())), expected, **RECORDED)


def lineage(config):
    when = "2026-01-02T03:04:05+00:00"
    return Lineage(study="s", trial=0, config=config, data_fingerprint="", scores={}, created_at=when, libraries={})


# One, two and four ranks, in float64.


def train_all(cases):
    torch.set_default_dtype(torch.float64)
    try:
        return {" ".join(case): train_on_rank(*case) for case in cases}
    finally:
        torch.set_default_dtype(torch.float32)


def train_on_rank(method, choice):
    config = config_of(method, choice, batch_size=64, epochs=2, optimizer={"sgd": {"lr": 0.05}}, augmentation="affine")
    data = tiny_data(tiny_pair(num_source=64, num_target=70, num_labelled=9))
    run, reports = trained(config, 2, data)  # of one step each
    gradients = {name: part.grad for name, part in run.task.named_parameters() if part.requires_grad}
    found = {"losses": [report.losses for report in reports], "gradients": gradients}
    return {**found, "scores": reports[-1].scores, "state": dict(run.task.state_dict())}


@pytest.fixture(scope="module")
def alone():
    return train_all(ON_RANKS)


@pytest.fixture(scope="module", params=[2, 4])
def on_ranks(request):
    return run_on_ranks(train_all, request.param, ON_RANKS)


@pytest.mark.parametrize("case", [" ".join(case) for case in ON_RANKS])
def test_every_rank_has_what_one_process_has(alone, on_ranks, case):
    for rank in on_ranks:
        assert rank[case]["scores"] == pytest.approx(alone[case]["scores"], rel=1e-5)  # evidence is float32
        for key in ("losses", "gradients", "state"):
            assert_close(rank[case][key], alone[case][key], **CLOSE)
