"""Scores that are computed once a search is over, from what its trials left."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ray_tl import api
from ray_tl.errors import BrokenStudy, InvalidInput, UnknownName
from ray_tl.study.records import TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles
from ray_tl.validation import VALIDATORS
from tests.examples import store as empty_study
from tests.scoring.searched import METHODS, searched

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Home of a study with four trials, of which the third is the champion."""
    home = tmp_path_factory.mktemp("home")
    searched(home).write_json("champion.json", {"trial": 2, "reason": "best", "candidates": []})
    return home


@pytest.fixture
def home(trained, tmp_path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "home"))


def files(home: Path, number: int) -> TrialFiles:
    return TrialFiles(home / "studies" / "digits", number)


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ray_tl.cli import main; main()", "rescore", *arguments, "--home", str(home)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment)


def test_every_trial_is_scored_by_every_validator(trained):
    found = api.rescore("digits", home=trained)
    lacking = {(gap.validator, number) for gap in found.gaps for number in gap.trials}
    scored = {(name, number) for number, scores in found.scores.items() for name in scores}
    assert lacking | scored == {(name, number) for name in VALIDATORS.names() for number in range(len(METHODS))}
    assert {"class_ami", "ensv", "mixval", "source_accuracy"} <= set(found.validators)


@pytest.mark.parametrize("name", ["class_ami", "dev", "im", "mixval", "snd", "source_accuracy"])
def test_a_score_is_the_validator_s_own_on_what_the_trial_left(trained, name):
    outputs, final = files(trained, 1).load_evidence(), files(trained, 1).load_final_evidence()
    given = {"source": final.source(outputs["source_holdout"]), "target": final.target(outputs["target"])}
    score = VALIDATORS.create(name, {}).score
    needed = {key: value for key, value in given.items() if key in score.__annotations__}
    assert api.rescore("digits", [name], home=trained).scores[1][name] == pytest.approx(score(**needed), rel=1e-9)


def test_agreement_with_the_ensemble_is_that_of_the_mean_prediction(trained):
    each = [files(trained, number).load_evidence()["target"] for number in range(len(METHODS))]
    together = np.mean(each, axis=0).argmax(axis=1)
    scores = api.rescore("digits", ["ensv"], home=trained).scores
    for number, probabilities in enumerate(each):
        assert scores[number]["ensv"] == pytest.approx((probabilities.argmax(axis=1) == together).mean())


def test_the_source_s_accuracy_is_that_which_the_search_recorded(trained):
    scores = api.rescore("digits", ["source_accuracy"], home=trained).scores
    recorded = StudyStore.open_for_reading(trained / "studies" / "digits").trials()
    for trial in recorded:
        assert scores[trial.number]["source_accuracy"] == pytest.approx(trial.last.scores["source_accuracy"], abs=0.005)


def test_the_best_of_a_column_is_the_lowest_where_lower_is_better(trained):
    found = api.rescore("digits", ["entropy", "im"], home=trained)
    for name, pick in (("entropy", min), ("im", max)):
        values = {number: scores[name] for number, scores in found.scores.items()}
        assert found.best(name) == [pick(values, key=values.__getitem__)]


def test_another_rule_says_which_trial_it_would_take_and_the_champion_stays(trained):
    found = api.rescore("digits", ["ensv"], "validators: {names: [ensv]}", trained)
    merits = {number: scores["ensv"] for number, scores in found.scores.items()}
    assert found.choice.champion.number == max(merits, key=merits.__getitem__)
    assert found.choice.merits == pytest.approx(merits)
    assert found.champion == 2


def test_a_rule_may_be_a_name_alone(trained):
    assert api.rescore("digits", ["im"], "agreement", trained).choice is not None


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ("agrement", "selection rule 'agrement' is not known; did you mean 'agreement'?"),
        ("validators", "selection rule 'validators' needs 'names'"),
        ("validators: {names: [mixvall]}", "validator 'mixvall' is not known; did you mean 'mixval'?"),
        ("validators: {names: [im", "selection: not valid YAML"),
    ],
)
def test_a_rule_that_is_not_one_is_refused(trained, selection, said):
    with pytest.raises(InvalidInput) as raised:
        api.rescore("digits", ["im"], selection, trained)
    assert said in str(raised.value)


def test_unknown_validators_are_named_together(trained):
    with pytest.raises(UnknownName, match=r"(?s)'ensvv' is not known; did you mean 'ensv'.*'mixvall' is not known"):
        api.rescore("digits", ["ensvv", "mixvall", "im"], home=trained)


def test_a_study_that_kept_predictions_alone_says_what_is_missing(home):
    for number in range(len(METHODS)):
        files(home, number).final_evidence.unlink()
    (home / "studies" / "digits" / "neighbours.npz").unlink(missing_ok=True)
    found = api.rescore("digits", home=home)
    assert set(found.validators) == {"bnm", "corr_c", "ensv", "entropy", "im", "mano", "snd"}
    gaps = {gap.validator: gap for gap in found.gaps}
    assert gaps["source_accuracy"].trials == gaps["class_ami"].trials == (0, 1, 2, 3)
    assert "the trial is of a study that kept predictions alone" in gaps["class_ami"].reason


def test_a_score_that_one_trial_lacks_is_told_of_that_trial(home):
    files(home, 3).final_evidence.unlink()
    found = api.rescore("digits", ["class_ami"], home=home)
    assert [gap.trials for gap in found.gaps] == [(3,)]
    assert sorted(number for number, scores in found.scores.items() if scores) == [0, 1, 2]


def test_a_trial_whose_predictions_are_not_finite_lacks_its_scores(home):
    outputs = files(home, 3).load_evidence()
    files(home, 3).save_evidence({name: np.full_like(values, np.nan) for name, values in outputs.items()})
    found = api.rescore("digits", ["im"], home=home)
    assert "are not finite: training diverged" in found.gaps[0].reason
    assert found.best("im") != [3]


def with_a_refit(home: Path) -> None:
    """The champion is trial 4, a refit of trial 2 that left the same."""
    store = StudyStore(home / "studies" / "digits")
    trial = store.trial(2)
    refit = store.begin_refit(2, trial.config)
    shutil.copy(files(home, 2).evidence, files(home, refit.number).evidence)
    shutil.copy(files(home, 2).final_evidence, files(home, refit.number).final_evidence)
    store.add_epoch(refit.number, trial.last, 1)
    store.finish(refit.number, TrialState.COMPLETE)
    store.write_json("champion.json", {"trial": 4, "reason": "best", "candidates": []})


def test_a_refit_is_not_scored_on_examples_that_it_was_trained_on(home):
    with_a_refit(home)
    found = api.rescore("digits", ["source_accuracy", "dev", "reverse_validation", "im"], home=home)
    assert set(found.scores[4]) == {"im"}
    assert found.scores[4]["im"] == found.scores[2]["im"]
    assert "source_accuracy" in found.scores[2]
    assert {(gap.trials, gap.reason[:18]) for gap in found.gaps} == {((4,), "a refit is trained")}


def test_the_trial_of_a_refit_that_is_the_champion_is_no_other_choice(home):
    with_a_refit(home)
    scores = api.rescore("digits", ["im"], home=home).scores
    best = max(range(4), key=lambda number: scores[number]["im"])
    said = run(home, "digits", "--validators", "source_accuracy,dev", "--selection", "validators: {names: [im]}").stdout
    assert "4 logistic (champion, refit of 2)" in " ".join(said.split())
    assert "source_accuracy, dev of trial 4: a refit" in " ".join(said.split())
    assert ("trained again as trial 4" in said) == (best == 2)


def test_evidence_that_was_cut_is_a_broken_study(home):
    files(home, 0).evidence.write_bytes(b"PK")
    with pytest.raises(BrokenStudy, match=r"0000.npz is not what was written"):
        api.rescore("digits", home=home)


def test_a_study_without_an_ended_trial_is_told(tmp_path):
    empty_study(tmp_path / "studies")
    with pytest.raises(InvalidInput, match=r"study='office' has no trial at full fidelity"):
        api.rescore("office", home=tmp_path)


def test_progress_is_told_after_each_trial(trained):
    told = []
    api.rescore("digits", ["im"], home=trained, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_study_that_may_only_be_read_is_scored(home, only_readable):
    before = api.rescore("digits", ["im"], home=home).scores
    only_readable(home)
    assert api.rescore("digits", ["im"], home=home).scores == before


def test_nothing_of_the_study_changes(home):
    folder = home / "studies" / "digits"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    api.rescore("digits", ["ensv"], "validators: {names: [ensv]}", home)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_scores_are_shown_as_a_table_with_the_best_marked(trained):
    scores = api.rescore("digits", ["im", "entropy"], home=trained).scores
    ended = run(trained, "digits", "--validators", "im,entropy", "--selection", "validators: {names: [im]}")
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in ended.stdout.splitlines()]
    best = max(scores, key=lambda number: scores[number]["im"])
    marked = [line for line in lines if f"{scores[best]['im']:.4f}*" in line]
    assert len(marked) == 1
    assert marked[0].startswith(f"{best} {METHODS[best]}")
    assert any(line.startswith("2 logistic (champion)") for line in lines)
    assert f"selection validators(names=['im']) takes trial {best}" in ended.stdout


def test_scores_as_json_are_one_line(trained):
    (told,) = map(json.loads, run(trained, "digits", "--validators", "im", "--json").stdout.splitlines())
    assert [(row["trial"], row["is_champion"], row["is_source_only"]) for row in told["trials"]] == [
        (0, False, True),
        (1, False, False),
        (2, True, False),
        (3, False, False),
    ]
    assert told["best"]["im"] == [max(told["trials"], key=lambda row: row["scores"]["im"])["trial"]]


def test_help_shows_a_rule_as_it_is_written(trained):
    assert "--selection 'validators: {names: [ensv, mixval]}'" in run(trained, "--help").stdout


def test_an_unknown_validator_is_one_message(trained):
    ended = run(trained, "digits", "--validators", "ensvv")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith("Error: validator 'ensvv' is not known; did you mean 'ensv'?")


def test_scores_of_predictions_need_no_torch(trained):
    code = f"""
import sys
from ray_tl import api
api.rescore("digits", ["ensv", "im", "mixval"], "validators: {{names: [ensv]}}", {str(trained)!r})
assert "torch" not in sys.modules and "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
