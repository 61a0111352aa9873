"""`ray-tl evaluate` and `ray-tl ledger`, on a study that left predictions."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ray_tl.cli.output import Output
from ray_tl.cli.scoring_views import show_evaluation, show_ledger
from ray_tl.scoring import Evaluation
from ray_tl.scoring.records import Expected
from ray_tl.selection.oracle import compare, score
from ray_tl.study.records import DataSource
from tests.examples import trial
from tests.scoring.studies import OPTIONS, certain, study, write_folders, write_sorted
from tests.scoring.test_records import ROW

ROOT = Path(__file__).parents[2]
LABELS = np.arange(60) % 20


@pytest.fixture
def output() -> Output:
    found = Output(as_json=False)
    found.console = Console(width=132, file=io.StringIO())
    return found


def evaluation(predicted: np.ndarray, labels: np.ndarray, num_classes: int) -> Evaluation:
    """Of trial 3, which is the champion; source-only predicts class 0 for everything."""
    probabilities = certain(predicted, num_classes)
    none = certain(np.zeros_like(labels), num_classes)
    return Evaluation(
        study="office",
        trial=trial(3),
        is_champion=True,
        domain="target",
        labels="labels='sorted'",
        num_labels=len(labels),
        num_rows=100,
        classes=tuple(f"class {number}" for number in range(num_classes)),
        score=score(probabilities, labels),
        source_only=(0, score(none, labels)),
        difference=compare(predicted == labels, labels == 0),
        standing=None,
        expected=None,
        accuracies={},
    )


def shown(output: Output) -> list[str]:
    """Lines with one blank between their words."""
    return [" ".join(line.split()) for line in output.console.file.getvalue().splitlines()]


def test_few_classes_are_shown_as_a_confusion_matrix(output):
    show_evaluation(evaluation(np.array([0, 0, 1, 0]), np.array([0, 0, 1, 1]), 3), output)
    assert "class 0 2 · · 2 100%" in shown(output)
    assert "class 1 1 1 · 2 50%" in shown(output)
    assert "class 2 · · · 0 –" in shown(output)


def test_many_classes_are_shown_by_the_weakest_and_the_most_confused(output):
    predicted = np.where(LABELS == 7, 4, LABELS)
    show_evaluation(evaluation(predicted, LABELS, 20), output)
    lines = shown(output)
    assert "class 7 class 4 3 100%" in lines
    recalls = [line for line in lines if re.fullmatch(r"class \d+ 3 \d+%", line)]
    assert (len(recalls), recalls[0]) == (15, "class 7 3 0%")


def test_an_expectation_is_held_against_the_truth(output):
    found = evaluation(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), 2)
    show_evaluation(replace(found, expected=Expected(0.9, 0.8, 0.95)), output)
    said = output.console.file.getvalue()
    assert "expected           90.0% (80.0% to 95.0%), said without labels: the truth is outside" in said


def test_the_ledger_ends_with_what_its_rows_say_together(output):
    show_ledger([ROW, replace(ROW, study="pets", champion=0.5, regret_points=22.0, expected=None)], output)
    lines = output.console.file.getvalue().splitlines()
    assert "office a > b target, 100 4 60.0% 70.0% 72.0% 2.0 2/4 mcc 70.0%, inside" in shown(output)
    assert lines[-1] == (
        "2 scored; mean regret 12.0, worst 22.0 points; 50% of champions more than 1 point worse than source-only; "
        "100% inside the expected interval"
    )


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from ray_tl.cli import main; main()", *arguments, "--home", str(home)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment)


@pytest.fixture
def home(tmp_path) -> Path:
    write_folders(tmp_path)
    write_sorted(tmp_path / "sorted", 200)
    names = {"source": "source", "target": "new", "target_test": "test"}
    data = DataSource(**{key: str(tmp_path / name) for key, name in names.items()}, options=OPTIONS)
    study(tmp_path, data, [(0, 0, 0, 1, 1, 1, 0, 0, 0, 0), (0, 0, 0, 0, 1, 1, 1, 0, 2, 0)])
    return tmp_path


def test_an_empty_ledger_says_what_to_do(home):
    ended = run(home, "ledger")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("ray-tl evaluate STUDY --labels FOLDER|TABLE\n")


def test_a_study_is_scored_and_put_into_the_ledger(home):
    ended = run(home, "evaluate", "pets", "--labels", "sorted")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "champion, trial 1 (source_only): 10 of 10 examples of target_test have a label" in ended.stdout
    assert "source-only        50.0%" in ended.stdout
    assert "regret             0.0 points, rank 1 among 2 trials at full fidelity; best is trial 1" in ended.stdout
    row, total = map(json.loads, run(home, "ledger", "--json").stdout.splitlines())
    assert (row["study"], row["champion"], row["gain_points"]) == ("pets", 0.8, pytest.approx(30))
    assert (total["studies"], total["mean_regret_points"], total["share_worse"]) == (1, 0.0, 0.0)


def test_an_evaluation_as_json_is_one_line(home):
    ended = run(home, "evaluate", "pets", "--labels", "sorted", "--json")
    (told,) = map(json.loads, ended.stdout.splitlines())
    assert (told["accuracy"]["value"], told["recalls"]) == (0.8, {"cat": 1.0, "dog": 0.75, "eel": 0.5})
    assert told["source_only"]["only_trial_right"] == 3


def test_labels_that_are_not_there_are_one_message(home):
    ended = run(home, "evaluate", "pets", "--labels", "none")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "Error: labels='none' does not exist; give the path of a folder of images.\n"
