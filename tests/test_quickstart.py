"""The first thing that a new user runs, whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[1]


def test_quickstart_ends_with_a_served_champion_that_was_chosen_without_labels(tmp_path):
    environment = {**os.environ, "RAY_TL_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from ray_tl.cli import main; main()", "quickstart", "--trials", "8", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    last = json.loads(run.stdout.strip().split("\n")[-1])
    assert last["champion"]["target_accuracy"] >= 0.90
    assert last["champion"]["target_accuracy"] > last["source_only"]["target_accuracy"]
    assert last["trials"] == 8
    assert abs(last["served"]["accuracy"] - last["champion"]["target_accuracy"]) <= 1 / 898 + 1e-9
