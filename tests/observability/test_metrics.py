import pytest

from ray_tl.observability.metrics import METRICS, metric, names_in


def test_names_are_unique_and_lead_to_their_row():
    assert [metric(row.name) for row in METRICS] == list(METRICS)


def test_ray_prefix_makes_the_exported_name():
    assert metric("tl_trial_score").exported == "ray_tl_trial_score"


def test_histogram_has_three_series_and_a_gauge_one():
    assert metric("tl_epoch_seconds").series == (
        "ray_tl_epoch_seconds_bucket",
        "ray_tl_epoch_seconds_sum",
        "ray_tl_epoch_seconds_count",
    )
    assert metric("tl_queue_length").series == ("ray_tl_queue_length",)


def test_counters_end_in_total_so_that_ray_adds_nothing_to_the_name():
    assert all(row.name.endswith("_total") == (row.kind == "counter") for row in METRICS)


def test_every_metric_says_which_study_it_belongs_to():
    assert all(row.labels[0] == "study" for row in METRICS)


def test_histograms_are_in_seconds_as_their_buckets_are():
    assert {row.unit for row in METRICS if row.kind == "histogram"} == {"s"}


def test_name_outside_the_table_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="not in the metric table"):
        metric("tl_typo")


def test_names_in_an_expression_are_those_of_this_library():
    expression = 'max by (study) (ray_tl_slots{study="a"}) / on (study) ray_node_cpu_count + ray_tl_slots_busy'
    assert names_in(expression) == {"ray_tl_slots", "ray_tl_slots_busy"}
