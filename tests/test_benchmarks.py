"""Benchmark scripts are too long for a test run; that they fit the package is tested, and what they compute."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "argparse" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_benchmark_is_imported_and_says_what_it_does(script):
    done = subprocess.run([sys.executable, str(FOLDER / script), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.fixture
def pools(monkeypatch):
    """The module, which is not in a package."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import selection_pools

    return selection_pools


def test_a_long_target_has_one_class_ten_times_as_frequent_as_another(pools):
    truth = np.repeat(np.arange(5), 400)
    counts = np.bincount(truth[pools.rows_of(truth, 5, "long")], minlength=5)
    assert max(counts) == 10 * min(counts) == 400


def test_a_half_target_holds_half_of_the_classes_whole_and_of_two_classes_both(pools):
    truth = np.repeat(np.arange(6), 50)
    assert sorted(np.bincount(truth[pools.rows_of(truth, 6, "half")], minlength=6)) == [0, 0, 0, 50, 50, 50]
    two = np.repeat([0, 1], 100)
    half, long = (np.bincount(two[pools.rows_of(two, 2, balance)]).tolist() for balance in ("half", "long"))
    assert sorted(half) == [10, 100]
    assert half == long[::-1]
