"""What holds for every method in a trial: it trains with every weighting, needs what it says, and resumes exactly."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.adaptation import LOSS_WEIGHTS, METHODS, AdaptationMethod, MethodContext
from ray_tl.data.domains import DomainPair, LabelledDomain
from ray_tl.errors import InvalidInput
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import TrialRun, train_trial
from tests.conformance.test_on_ranks import SECOND_PHASE, trained
from tests.training.tiny import RULE, Reports, tiny_config, tiny_data, tiny_pair

EXACT = {"rtol": 0, "atol": 0}
every_method = pytest.mark.parametrize("method", METHODS.names())


def built(method: str) -> AdaptationMethod:
    return METHODS.create(method, {}, MethodContext(2, 2, 2, 2, 2))


@pytest.fixture(scope="module")
def data():
    return few_labels()


@every_method
@pytest.mark.parametrize("weighting", LOSS_WEIGHTS.names())
def test_method_trains_three_steps_with_every_weighting(method, weighting, data):
    run = TrialRun(tiny_config(method=method, loss_weighting=weighting, augmentation="affine"), data, RULE)
    before = {name: value.clone() for name, value in run.task.model.named_parameters()}
    losses, weights = trained(run, 0)
    assert list(losses) == list(weights) == list(run.task.method.loss_names)
    assert all(math.isfinite(value) for value in [*losses.values(), *weights.values()])
    assert all(not torch.equal(value, before[name]) for name, value in run.task.model.named_parameters())


@every_method
def test_every_trained_parameter_has_a_gradient_after_each_step(method, data):
    run = TrialRun(tiny_config(method=method), data, RULE)
    run.epoch(0)
    assert [name for name, part in run.task.named_parameters() if part.requires_grad and part.grad is None] == []


@every_method
def test_method_works_on_cached_activations(method, data):
    run = TrialRun(tiny_config(method=method, freeze_depth=3), data, RULE)
    report = run.epoch(0)
    assert report.cached_stages == 3
    assert all(math.isfinite(value) for value in report.losses.values())


@pytest.mark.parametrize("method", [name for name in METHODS.names() if built(name).takes_mixed_source])
def test_a_method_that_says_so_learns_from_mixed_source_examples(method, data):
    config = tiny_config(method={method: SECOND_PHASE.get(method)}, mixing="mixup")
    losses, _ = trained(TrialRun(config, data, RULE), 0)
    assert all(math.isfinite(value) for value in losses.values())


@pytest.mark.parametrize("method", [name for name in METHODS.names() if not built(name).takes_mixed_source])
def test_a_method_that_does_not_say_so_refuses_mixed_source_examples(method, data):
    with pytest.raises(InvalidInput, match=f"mixing='mixup' does not go with method '{method}'"):
        TrialRun(tiny_config(method=method, mixing="mixup"), data, RULE)


def test_every_method_without_a_source_batch_refuses_mixed_ones():
    sourceless = {name for name in METHODS.names() if "source" not in built(name).needs}
    assert sourceless <= {name for name in METHODS.names() if not built(name).takes_mixed_source}


@every_method
def test_an_interrupted_trial_ends_where_an_uninterrupted_one_ends(method, tmp_path):
    whole, parts = TrialFiles(tmp_path, 0), TrialFiles(tmp_path, 1)
    expected = finished(method, whole)
    before, after = finished(method, parts, stop_at=1), finished(method, parts)
    assert [*before, *after[1:]] == expected
    left, right = (files.load_checkpoint() for files in (parts, whole))
    assert_close(left["task"], right["task"], **EXACT)


@every_method
def test_building_a_method_needs_no_data(method):
    context = MethodContext(feature_dim=2, num_classes=2, num_source=2, num_target=2, num_target_labelled=2)
    built = METHODS.create(method, {}, context)
    assert all(isinstance(value, torch.Tensor) for value in built.state_dict().values())


def bare(pair: DomainPair, name: str) -> DomainPair:
    """The pair with a domain of black images, all of the first class."""
    domain = getattr(pair, name)
    if domain is None:
        return pair
    changes = {"labels": np.zeros_like(domain.labels)} if isinstance(domain, LabelledDomain) else {}
    return replace(pair, **{name: replace(domain, inputs=np.zeros_like(domain.inputs), **changes)})


def used(method: str) -> set[str]:
    """The domains that a method may look at, as it declares."""
    made = built(method)
    views = {"target" if view == "strong" else view for view in made.needs}
    labelled = {"target_labelled"} if made.takes_target_labels else set()
    return views | set(made.needs_domains) | labelled | ({"target"} if made.sets_statistics else set())


@pytest.mark.parametrize(
    ("method", "unused"),
    [
        (method, domain)
        for method in METHODS.names()
        for domain in ("source", "target", "target_labelled")
        if domain not in used(method)
    ],
)
def test_a_domain_that_a_method_does_not_declare_changes_nothing(method, unused):
    pair = tiny_pair(num_labelled=7)
    assert_close(weights_of(method, bare(pair, unused)), weights_of(method, pair), **EXACT)


@every_method
def test_a_domain_that_a_method_declares_is_used(method):
    pair = tiny_pair(num_labelled=7)
    whole = weights_of(method, pair)
    for domain in used(method):
        other = weights_of(method, bare(pair, domain))
        assert any(not torch.equal(value, whole[name]) for name, value in other.items()), domain


def weights_of(method: str, pair: DomainPair) -> dict[str, torch.Tensor]:
    config = tiny_config(method={method: SECOND_PHASE.get(method)}, augmentation="affine", epochs=2)
    run = TrialRun(config, tiny_data(pair), RULE)
    for epoch in range(2):
        trained(run, epoch)
    return run.task.model.state_dict()


def few_labels(**changes: object) -> TrialData:
    """A pair with labelled target examples; domains of these names are replaced."""
    return tiny_data(replace(tiny_pair(num_labelled=7), **changes))


def finished(method: str, files: TrialFiles, stop_at: int | None = None) -> list:
    reports = Reports(stop_at)
    config = tiny_config(method=method, optimizer="adamw", augmentation="affine", epochs=2)
    train_trial(config, few_labels(), reports, files, RULE)
    return [replace(report, seconds=0.0) for report in reports]
