import ast
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

import ray_tl
from ray_tl.data.domains import OracleLabels
from ray_tl.selection.oracle import compare, oracle_accuracy, score, true_labels, wilson

PACKAGE = Path(ray_tl.__file__).parent
MAY_READ = ("scoring/", "cli/scoring", "api.py", "quickstart.py", "selection/oracle.py")


@pytest.mark.parametrize(("num_hits", "num_rows"), [(0, 5), (7, 10), (81, 263), (900, 900)])
def test_the_interval_of_a_share_is_that_of_scipy(num_hits, num_rows):
    expected = binomtest(num_hits, num_rows).proportion_ci(0.95, method="wilson")
    found = wilson(num_hits, num_rows)
    assert found.value == num_hits / num_rows
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def flags(*counts):
    """Hits of two trials, from how many rows both, the first alone, the second alone, and none get right."""
    first, second = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    return np.repeat(first, counts).astype(bool), np.repeat(second, counts).astype(bool)


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).multinomial(200, [0.6, 0.15, 0.1, 0.15], 4000)
    intervals = [compare(*flags(*counts)).difference for counts in draws]
    assert np.mean([each.low <= 0.05 <= each.high for each in intervals]) == pytest.approx(0.95, abs=0.01)


def test_the_difference_is_as_wide_as_a_paired_bootstrap():
    first, second = flags(500, 90, 60, 350)
    rows = np.random.default_rng(0).integers(1000, size=(4000, 1000))
    resampled = first[rows].mean(axis=1) - second[rows].mean(axis=1)
    found = compare(first, second)
    assert found.difference.value == pytest.approx(0.03)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        np.quantile(resampled, [0.025, 0.975]), abs=2e-3
    )
    assert (found.only_first, found.only_second) == (90, 60)


def test_ten_rows_that_one_trial_alone_gets_right_are_as_likely_as_ten_heads_or_tails():
    assert compare(*flags(5, 10, 0, 5)).p_value == pytest.approx(2 / 2**10)
    assert compare(*flags(5, 0, 0, 5)).p_value == 1.0


def test_a_class_without_a_labelled_row_has_no_recall():
    found = score(np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.9, 0.0]], np.float32), np.array([0, 1, 1]))
    assert found.recalls == (1.0, 0.5, None)
    assert found.support == (1, 2, 0)
    assert found.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 0))


def test_labels_of_some_rows_are_enough():
    places, labels = true_labels(np.array([0, 2, 3]), "abcd", ["x", "y"], OracleLabels({"c": "y", "b": "x", "a": "x"}))
    assert (places.tolist(), labels.tolist()) == ([0, 1], [0, 1])


def test_accuracy_is_the_share_of_ids_whose_class_is_named():
    oracle = OracleLabels({"a": "x", "b": "x"})
    assert oracle_accuracy(np.array([[0.6, 0.4], [0.4, 0.6]], np.float32), ["a", "b"], ["x", "y"], oracle) == 0.5


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_that_searches_or_promotes_imports_what_reads_true_classes():
    others = [path for path in PACKAGE.rglob("*.py") if not str(path.relative_to(PACKAGE)).startswith(MAY_READ)]
    forbidden = ("ray_tl.selection.oracle", "ray_tl.scoring")
    found = [path.name for path in others if any(name.startswith(forbidden) for name in imported(path))]
    assert (len(others) > 150, found) == (True, [])


def test_no_other_module_names_the_file_of_the_ledger():
    readers = [path for path in PACKAGE.rglob("*.py") if "evaluation.json" in path.read_text()]
    assert [str(path.relative_to(PACKAGE)) for path in readers] == ["scoring/records.py"]
