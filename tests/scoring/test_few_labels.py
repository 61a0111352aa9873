"""A search whose champion is chosen with a few labels of the target, which no trial is shown."""

import numpy as np
import pytest
import torch

from ray_tl import api
from ray_tl.errors import InvalidInput
from ray_tl.planning.plan import load_places
from ray_tl.search_space import SearchFile
from ray_tl.selection import ByAgreement, rule_of
from ray_tl.selection.few_labels import FewLabels
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.network import load_model
from tests.scoring.searched import METHODS, searched, write_labelled


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A study with three labelled target digits of each class for the choice."""
    home = tmp_path_factory.mktemp("home")
    return searched(home, target_labelled=write_labelled(home / "few", 3), target_labels_for="choice")


def pair_of(store):
    return load_places(store.spec.data, store.spec.search.seed).pair


def test_predictions_on_the_labelled_examples_are_those_of_the_network(chosen):
    pair, files = pair_of(chosen), TrialFiles(chosen.folder, 2)
    model = load_model(chosen.trial(2).config, TrialData(pair.for_trials(), torch.device("cpu")), files).eval()
    with torch.no_grad():
        expected = model(torch.as_tensor(pair.target_choice.inputs))[1].softmax(1)
    labelled = files.load_trial_evidence().labelled
    np.testing.assert_allclose(labelled.probabilities, expected, atol=1e-3)
    assert labelled.labels.tolist() == pair.target_choice.labels.tolist() == sorted(list(range(10)) * 3)


def test_the_rule_of_the_study_counts_what_is_predicted_rightly(chosen):
    hits = [TrialFiles(chosen.folder, number).load_trial_evidence().labelled.hits for number in range(len(METHODS))]
    evidence = lambda number: TrialFiles(chosen.folder, number).load_trial_evidence()  # noqa: E731
    choice = rule_of(chosen.spec).choose(chosen.trials(), evidence)
    said = f"3 labelled target examples a class, 30 in all, it predicts {hits[choice.champion.number].sum()} rightly"
    assert isinstance(rule_of(chosen.spec), FewLabels)
    assert said in choice.reason


def test_trials_are_the_same_to_the_bit_whatever_the_labels_are(chosen, tmp_path):
    wrong = write_labelled(tmp_path / "few", 3, turn=1)
    other = searched(tmp_path, target_labelled=wrong, target_labels_for="choice")
    assert other.spec.data_fingerprint != chosen.spec.data_fingerprint
    for number in range(len(METHODS)):
        first, second = (TrialFiles(store.folder, number).load_evidence() for store in (chosen, other))
        for name in ("source_holdout", "target"):
            np.testing.assert_array_equal(first[name], second[name])


def test_a_trial_has_nowhere_to_look_a_label_up(chosen):
    data = TrialData(pair_of(chosen).for_trials(), torch.device("cpu"))
    assert data.target_labels is None
    assert "target_labelled" not in data.rows
    assert not hasattr(data.pair.target_choice, "labels")


def test_other_rules_over_the_same_study_use_the_labels_too(chosen):
    found = api.rescore("digits", ["im"], "validators: {names: [im]}", chosen.folder.parents[1])
    assert "labelled target examples a class" in found.choice.reason


def test_without_labels_for_the_choice_nothing_of_it_changes(tmp_path):
    store = searched(tmp_path, METHODS[:2], target_labelled=write_labelled(tmp_path / "few", 2))
    assert isinstance(rule_of(store.spec), ByAgreement)
    assert "target_choice" not in TrialFiles(store.folder, 0).load_evidence()
    assert TrialFiles(store.folder, 0).load_trial_evidence().labelled is None


def plan(home, use, method="source_only"):
    space = SearchFile(
        data={"image_size": 8, "channels": 1, "target_shots": 2},
        trial={"backbone": {"tiny_cnn": {"width": 4}}, "method": method},
    )
    further = {"settings": {"target_labels_for": use}, "target_labelled": "digits:optdigits", "name": "few"}
    return api.plan_search(space, "digits:mnist", "digits:optdigits", home=home, **further)


def test_a_method_that_trains_on_labels_is_refused_where_they_are_for_the_choice(tmp_path):
    with pytest.raises(
        InvalidInput, match=r"'fine_tune' learns from labelled target examples, and there are none to t"
    ):
        plan(tmp_path, "choice", "fine_tune")


@pytest.mark.parametrize(("use", "first"), [("choice", ["source_only"]), ("both", ["source_only", "fine_tune"])])
def test_training_on_target_labels_is_prepared_where_trials_get_some(tmp_path, use, first):
    made = plan(tmp_path, use)
    assert [config.method.name for config in made.store.spec.first] == first
    kept = np.load(made.store.folder / "choice_labels.npy")
    assert np.bincount(kept).tolist() == [2 if use == "choice" else 1] * 10


def test_another_use_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="target_labels_for='test'"):
        plan(tmp_path, "test")
