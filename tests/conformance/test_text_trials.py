"""What holds for every method in a trial on texts: it trains, cached or not, on ranks, and resumes exactly."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ray_tl.adaptation import METHODS
from ray_tl.adaptation.closed_form import CLOSED_FORM
from ray_tl.data.augmentation import dropped_activations
from ray_tl.models.sequences import real_positions
from ray_tl.training.evaluation import predict_outputs
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import evaluate_checkpoint, train_trial
from ray_tl.training.network import build_model
from ray_tl.training.run import TrialRun
from tests.conformance.test_on_ranks import trained
from tests.gloo import run_on_ranks
from tests.training.tiny import RULE, Reports
from tests.training.tiny_text import tiny_text_config, tiny_text_data, tiny_text_pair

SOME = ("source_only", "dann", "mean_teacher", "drcn")
"""Methods with learned parts, a teacher, a strong view, and one that looks at the tokens."""

every_method = pytest.mark.parametrize("method", METHODS.names())


@pytest.fixture(scope="module")
def data():
    return tiny_text_data(tiny_text_pair(num_labelled=6))


@every_method
def test_method_trains_on_texts_and_moves_every_parameter(method, data):
    run = TrialRun(tiny_text_config(method=method, augmentation="word_dropout"), data, RULE)
    before = {name: value.clone() for name, value in run.task.model.named_parameters()}
    losses, _ = trained(run, 0)
    assert all(math.isfinite(value) for value in losses.values())
    assert [name for name, value in run.task.model.named_parameters() if value.grad is None] == []
    assert [name for name, value in run.task.model.named_parameters() if torch.equal(value, before[name])] == []


@every_method
@pytest.mark.parametrize("depth", [2, 4])
def test_method_works_on_cached_activations_of_texts(method, depth, data):
    run = TrialRun(tiny_text_config(method=method, freeze_depth=depth), data, RULE)
    report = run.epoch(0)
    assert report.cached_stages == depth
    assert all(math.isfinite(value) for value in report.losses.values())


@pytest.mark.parametrize("method", SOME)
def test_an_interrupted_trial_on_texts_ends_where_an_uninterrupted_one_ends(method, tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    expected = finished(method, whole)
    before, after = finished(method, parts, stop_at=1), finished(method, parts)
    assert [*before, *after[1:]] == expected
    assert_close(parts.load_checkpoint()["task"], whole.load_checkpoint()["task"], rtol=0, atol=0)


def finished(method: str, files: TrialFiles, stop_at: int | None = None) -> list:
    config = tiny_text_config(method=method, augmentation="word_dropout", epochs=2)
    reports = Reports(stop_at)
    train_trial(config, tiny_text_data(tiny_text_pair(num_labelled=6)), reports, files, RULE)
    return [replace(report, seconds=0.0) for report in reports]


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_cached_texts_train_as_uncached_ones(depth, data):
    config = tiny_text_config(method="mcc", freeze_depth=depth)
    cached, plain = TrialRun(config, data, RULE), TrialRun(config, data, RULE)
    data.cache.capacity_bytes, capacity = 0, data.cache.capacity_bytes
    losses, _ = trained(plain, 0)
    data.cache.capacity_bytes = capacity
    assert_close(trained(cached, 0)[0], losses, rtol=1e-5, atol=1e-6)
    assert_close(dict(cached.task.state_dict()), dict(plain.task.state_dict()), rtol=1e-5, atol=1e-6)


def test_dropping_cached_activations_leaves_padding_as_it_is(data):
    hidden = data.inputs(build_model(tiny_text_config(), data), 2).rows["target"]
    strong = dropped_activations(hidden, torch.Generator().manual_seed(0))
    assert torch.equal(real_positions(strong), real_positions(hidden))
    assert not torch.equal(strong, hidden)


@pytest.mark.parametrize("method", [name for name in CLOSED_FORM.names() if name != "zero_shot"])  # needs CLIP
def test_closed_form_methods_solve_on_texts(method, data, tmp_path):
    params = {"pca_alignment": {"num_components": 3}, "subspace_alignment": {"num_components": 3}}.get(method)
    config, files, reports = tiny_text_config(method={method: params}), TrialFiles(tmp_path, 0), Reports()
    assert train_trial(config, data, reports, files, RULE)
    assert evaluate_checkpoint(config, data, files, RULE).agreement == 1.0


@pytest.mark.parametrize("pooling", ["mean", "max", "attention", "all"])
def test_taps_of_texts_pool_tokens_and_no_padding(pooling, data):
    features = {"multi_scale": {"num_taps": 2, "pooling": pooling}}
    model = build_model(tiny_text_config(features=features), data).eval()
    rows = data.rows["target"]
    longer = torch.nn.functional.pad(rows, (0, 3), value=-1)
    assert_close(model(longer)[0], model(rows)[0], rtol=1e-5, atol=1e-6)
    alone = torch.cat([model(row[None])[0] for row in rows[:5]])
    assert_close(alone, model(rows)[0][:5], rtol=1e-5, atol=1e-6)


ON_RANKS: dict[str, dict] = {
    **{method: {"method": method} for method in SOME},
    "lora": {"parameter_efficient": {"lora": {"dropout": 0.3}}},
    "bottleneck adapters": {"parameter_efficient": "bottleneck_adapter", "freeze_depth": 1},
}


def train_all() -> dict[str, dict]:
    torch.set_default_dtype(torch.float64)
    try:
        return {name: train(changes) for name, changes in ON_RANKS.items()}
    finally:
        torch.set_default_dtype(torch.float32)


def train(changes: dict) -> dict:
    config = tiny_text_config(augmentation="word_dropout", batch_size=16, epochs=2, **changes)
    run = TrialRun(config, tiny_text_data(tiny_text_pair(num_labelled=6)), RULE)
    losses = [trained(run, epoch)[0] for epoch in range(2)]
    target = predict_outputs(run.task.model, run.data.rows["target"])[1]
    return {"losses": losses, "state": dict(run.task.state_dict()), "target": target}


def test_two_ranks_have_on_texts_what_one_process_has():
    alone = train_all()
    for rank in run_on_ranks(train_all, 2):
        assert_close(rank, alone, rtol=1e-6, atol=1e-10)
