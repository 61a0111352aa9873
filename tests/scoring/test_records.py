from dataclasses import replace

import pytest

from ray_tl.scoring import LedgerRow, totals
from ray_tl.scoring.records import Expected, read_ledger
from ray_tl.study.studies import studies_at

ROW = LedgerRow(
    study="office",
    source="/data/a",
    target="/data/b",
    trials=4,
    domain="target",
    labels="labels='b'",
    num_labels=100,
    source_only=0.6,
    champion=0.7,
    champion_trial=2,
    method="mcc",
    best=0.72,
    regret_points=2.0,
    rank=2,
    num_ranked=4,
    expected=Expected(0.7, 0.65, 0.75),
    evaluated_at="2026-01-02T03:04:05+00:00",
)


def test_totals_are_means_over_studies():
    worse = replace(ROW, champion=0.585, regret_points=8.0)
    nearly = replace(ROW, champion=0.595, regret_points=2.0, expected=None)
    together = totals([ROW, worse, nearly])
    assert (together.studies, together.mean_regret_points, together.worst_regret_points) == (3, 4.0, 8.0)
    assert together.share_worse == pytest.approx(1 / 3)
    assert together.share_inside == 1 / 2


def test_rows_that_do_not_say_something_do_not_count_for_it():
    bare = replace(ROW, source_only=None, regret_points=None, expected=None)
    together = totals([bare, ROW])
    assert (together.mean_regret_points, together.share_worse, together.share_inside) == (2.0, 0.0, 1.0)
    assert totals([bare]).mean_regret_points is None


def test_a_home_without_studies_has_an_empty_ledger(tmp_path):
    assert read_ledger(studies_at(tmp_path / "studies")) == []
