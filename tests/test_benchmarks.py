"""What benchmarks compute, and that each of them is run by a test."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ray_tl.validation.evidence import Features, FinalEvidence, Mixes
from tests.benchmark_runs import FOLDER


def imported_by(script: Path) -> set[str]:
    """Names of the modules beside a script that it imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(script.read_text())))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    return {name for name in names if name and (FOLDER / f"{name}.py").is_file()}


def test_every_benchmark_is_run_by_a_test_or_imported_by_one_that_is():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_benchmarks*.py"))
    waiting, covered = re.findall(r'printed(?:_apart)?\(\s*"(\w+)\.py"', tests), set()
    while waiting:
        name = waiting.pop()
        waiting += imported_by(FOLDER / f"{name}.py") - covered
        covered.add(name)
    assert covered == {path.stem for path in FOLDER.glob("*.py")}


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


@pytest.fixture
def peers(monkeypatch):
    pytest.importorskip("skada")
    monkeypatch.syspath_prepend(str(FOLDER))
    import selection_peers

    return selection_peers


def evidence(num_classes=3, num_rows=40):
    """Softmax on held-out source examples and on the target, and features, labels and mixtures of all of them."""
    random = np.random.default_rng(0)
    holdout, target, mixed = random.dirichlet(np.ones(num_classes), size=(3, num_rows)).astype(np.float32)
    features = {
        name: Features(np.arange(num_rows), random.normal(loc, size=(num_rows, 4)).astype(np.float32))
        for name, loc in {"source": 0, "source_holdout": 0, "target": 1}.items()
    }
    labels, rows = random.integers(num_classes, size=num_rows), np.arange(num_rows)
    mixes = Mixes(rows, np.roll(rows, 3), 0.55, mixed)
    return holdout, target, FinalEvidence(features, labels, labels, mixes)


def test_scorers_of_skada_see_the_recorded_predictions(peers):
    holdout, target, final = evidence()
    scores = peers.skada_scores(holdout, target, final)
    entropy = -(target * np.log(target + 1e-7)).mean()
    assert scores["PredictionEntropyScorer"] == pytest.approx(-entropy, rel=1e-4)
    assert scores["MaNoScorer"] == pytest.approx((target.astype(float) ** 4).mean() ** 0.25, rel=1e-5)
    assert np.isfinite(list(scores.values())).all()


def test_mixval_of_skada_sees_the_recorded_mixtures(peers):
    holdout, target, final = evidence()
    own, mixed = target.argmax(axis=1), final.mixes.probabilities.argmax(axis=1)
    hits, alike = own == mixed, own == np.roll(own, 3)
    expected = (hits[alike].mean() + hits[~alike].mean()) / 2
    assert peers.skada_scores(holdout, target, final)["MixValScorer"] == pytest.approx(expected)


def test_importance_weights_of_skada_are_ratios_of_kernel_densities(peers):
    holdout, target, final = evidence()
    source, others = (final.features[name].values.astype(float) for name in ("source_holdout", "target"))
    density = {
        name: np.exp(-cdist(source, rows, "sqeuclidean") / 2).mean(axis=1)
        for name, rows in (("s", source), ("t", others))
    }
    hits = holdout.argmax(axis=1) == final.holdout_labels
    expected = np.average(hits, weights=density["t"] / density["s"])
    assert peers.skada_scores(holdout, target, final)["ImportanceWeightedScorer"] == pytest.approx(expected)
