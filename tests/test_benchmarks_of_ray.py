"""Benchmarks of what the driver pays, run as small as they go: that they still measure something is tested."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"


def figures(script: str, *arguments: str) -> dict:
    command = [sys.executable, str(FOLDER / script), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{")))


def test_the_store_is_measured():
    assert figures("store_scale.py", "--trials", "100", "--space", "digits")["windows"]["50"]["total"] > 0


@pytest.mark.ray
def test_the_driver_is_measured():
    found = figures("scale.py", "--trials", "40", "--nodes", "1", "--window", "10")
    assert found["trials"] == 40
    assert found["tune_bytes_a_trial"] < 2000
    assert 0 < found["processor_ms_a_trial"] < 1e3 * found["wall_s"]


@pytest.mark.ray
def test_warm_slots_and_the_textbook_pattern_are_measured_on_the_same_trials():
    found = figures("overhead.py", "--trials", "1", "--concurrency", "1")["results"]
    assert set(found) == {"warm slots", "warm slots, once started", "textbook"}
    assert all(each["training_s"] > 0 for each in found.values())
