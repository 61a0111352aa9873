"""What holds for a trial of every closed-form method, and of it alone: tests over `METHODS` train, these solve."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ray_tl.adaptation import METHODS
from ray_tl.adaptation.closed_form import CLOSED_FORM
from ray_tl.components import catalogue
from ray_tl.data.domains import DomainPair
from ray_tl.errors import InvalidInput
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import evaluate_checkpoint, train_trial
from ray_tl.training.network import load_model
from tests.gloo import run_on_ranks
from tests.tiny_clip import tiny_clip
from tests.training.tiny import RECORDED, RULE, SIDE, Reports, tiny_config, tiny_data, tiny_pair

NAMES = CLOSED_FORM.names()
FEW = {"random_forest": {"num_trees": 5}, "subspace_alignment": {"num_components": 3}}
PARAMS: dict[str, dict] = {name: {} for name in NAMES} | FEW | {"pca_alignment": {"num_components": 3}}
EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # float32 features of other batches
every_method = pytest.mark.parametrize("method", NAMES)


def config_of(method: str, clip: str | None = None, **changes: object):
    knowing = {"backbone": {"clip": {"weights": clip or tiny_clip(1, SIDE)}}} if method == "zero_shot" else {}
    return tiny_config(method={method: PARAMS[method]}, **knowing, **changes)


def solved(method: str, pair: DomainPair, folder: Path, **changes: object) -> dict:
    """Everything that a trial leaves."""
    files, reports = TrialFiles(folder, 0), Reports()
    config = config_of(method, **changes)
    finished = train_trial(config, tiny_data(pair), reports, files, RULE)
    network = files.load_checkpoint()["task"] if files.checkpoint.is_file() else {}
    evidence = {name: torch.tensor(array) for name, array in files.load_evidence().items()}
    return {"finished": finished, "epochs": [report.epoch for report in reports], "task": network, **evidence}


def bare(pair: DomainPair, name: str) -> DomainPair:
    """The pair with the images of a domain in reverse, a stripe of light across each."""
    domain = getattr(pair, name)
    images = domain.inputs[::-1].copy()
    images[:, :, :, 2] += 50
    return replace(pair, **{name: replace(domain, inputs=images)})


def head_of(method: str, pair: DomainPair, folder: Path) -> dict[str, torch.Tensor]:
    network = solved(method, pair, folder)["task"]
    return {name: value for name, value in network.items() if name.startswith("model.head.")}


def used(method: str) -> set[str]:
    """The domains that a method may look at, as it declares."""
    kind = CLOSED_FORM.factory(method)
    return {*kind.needs_domains} | ({"target_labelled"} if kind.takes_target_labels else set())


def test_a_search_may_choose_among_methods_of_both_kinds():
    assert catalogue()["method"].names() == sorted([*METHODS.names(), *NAMES])


@every_method
@pytest.mark.parametrize("domain", ["source", "target", "target_labelled"])
def test_a_domain_decides_if_the_method_declares_it_and_not_otherwise(method, domain, tmp_path):
    pair = tiny_pair(num_labelled=7)
    head, other = head_of(method, pair, tmp_path / "a"), head_of(method, bare(pair, domain), tmp_path / "b")
    same = head.keys() == other.keys() and all(
        value.shape == other[name].shape and torch.equal(value, other[name]) for name, value in head.items()
    )
    assert same == (domain not in used(method))


@every_method
def test_a_trial_reports_once_at_full_fidelity_and_leaves_what_gives_its_predictions_again(method, tmp_path):
    left = solved(method, tiny_pair(), tmp_path)
    assert (left["finished"], left["epochs"]) == (True, [4])
    config, files = config_of(method), TrialFiles(tmp_path, 0)
    assert evaluate_checkpoint(config, tiny_data(), files, RULE).agreement == 1.0
    with torch.no_grad():
        model = load_model(config, tiny_data(), files).eval()
        again = model(torch.from_numpy(tiny_pair().target.inputs))[1].softmax(dim=1)
    assert_close(again, left["target"], **RECORDED)


@every_method
def test_solving_again_gives_the_same_to_the_bit(method, tmp_path):
    first, second = (solved(method, tiny_pair(num_labelled=5), tmp_path / name) for name in "ab")
    assert_close(first, second, **EXACT)


@every_method
def test_a_finished_trial_reports_the_same_again_and_is_not_solved_again(method, tmp_path):
    files, data, first, second = TrialFiles(tmp_path, 0), tiny_data(), Reports(stop_at=1), Reports()
    assert train_trial(config_of(method), data, first, files, RULE)
    written = files.checkpoint.stat().st_mtime_ns
    assert train_trial(config_of(method), tiny_data(), second, files, RULE)
    assert second == first
    assert files.checkpoint.stat().st_mtime_ns == written


def all_solved(folder: str | None, clip: str) -> dict:
    """Of every method; ranks share a folder, of which rank 0 alone writes, and a network that knows words."""
    shared, pair = Path(folder or tempfile.mkdtemp()), tiny_pair(num_labelled=5)
    return {name: solved(name, pair, shared / name, clip=clip) for name in NAMES} | {"wrong": mistake()}


def mistake() -> str:
    config = tiny_config(method={"knn": {"k": 25}})
    with pytest.raises(InvalidInput) as raised:
        train_trial(config, tiny_data(), Reports(), TrialFiles(Path(tempfile.mkdtemp()), 0), RULE)
    return str(raised.value)


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(1, SIDE)


@pytest.fixture(scope="module")
def alone(clip):
    return all_solved(None, clip)


@pytest.fixture(scope="module", params=[2, 4])
def on_ranks(request, clip, tmp_path_factory):
    return run_on_ranks(all_solved, request.param, str(tmp_path_factory.mktemp("shared")), clip)


@every_method
def test_rank_0_has_what_one_process_has_and_the_others_report_nothing(alone, on_ranks, method):
    first, *others = (run[method] for run in on_ranks)
    assert first["epochs"] == alone[method]["epochs"]
    assert [other["epochs"] for other in others] == [[]] * len(others)
    for name in ("task", "target", "source_holdout"):
        assert_close(first[name], alone[method][name], **CLOSE)


def test_every_rank_learns_what_is_wrong(alone, on_ranks):
    assert {run["wrong"] for run in (alone, *on_ranks)} == {"knn.k=25 is more than the 24 source rows; choose 1..24."}


@every_method
def test_an_untrained_adaptor_and_what_only_trains_change_nothing(method, tmp_path):
    trained = {"adaptor": "bottleneck", "optimizer": "sgd", "augmentation": "affine", "freeze_depth": 2, "epochs": 9}
    plain, other = solved(method, tiny_pair(), tmp_path / "a"), solved(method, tiny_pair(), tmp_path / "b", **trained)
    assert other.pop("epochs") == [9]
    assert plain.pop("epochs") == [4]
    np.testing.assert_equal(list(other), list(plain))
    assert_close(other, plain, **EXACT)
