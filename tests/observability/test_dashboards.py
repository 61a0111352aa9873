import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ray_tl.observability.dashboards import COLUMNS, as_text, search_dashboard, search_panels, write
from ray_tl.observability.metrics import METRICS, names_in

FOLDER = Path(__file__).parents[2] / "dashboards"
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
EXPRESSIONS = [query.expression for panel in search_panels() for query in panel.queries]
SERIES = {series for row in METRICS for series in row.series}
CURRENT_TYPES = {"timeseries", "stat", "table", "heatmap", "state-timeline"}

with_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (Debian: prometheus)")


def test_committed_dashboard_is_the_generated_one():
    remedy = "run `python -m ray_tl.observability.dashboards`"
    assert (FOLDER / "search.json").read_text() == as_text(search_dashboard()), remedy


def test_generating_twice_gives_the_same_bytes(tmp_path):
    first = write(tmp_path).read_bytes()
    assert write(tmp_path).read_bytes() == first


@pytest.mark.parametrize("expression", EXPRESSIONS + [rule["expr"] for rule in ALERTS])
def test_expression_reads_only_metrics_of_the_table(expression):
    assert names_in(expression)
    assert names_in(expression) <= SERIES


def test_every_metric_of_the_table_is_drawn():
    drawn = set().union(*map(names_in, EXPRESSIONS))
    assert [row.name for row in METRICS if drawn.isdisjoint(row.series)] == []


def test_no_expression_reads_a_histogram_sum_which_ray_only_estimates():
    assert [text for text in EXPRESSIONS if "_seconds_sum" in text] == []


def test_panels_use_current_types_and_the_chosen_data_source():
    panels = search_dashboard()["panels"]
    assert {panel["type"] for panel in panels} == CURRENT_TYPES
    assert {str(panel["datasource"]) for panel in panels} == {"{'type': 'prometheus', 'uid': '${datasource}'}"}


def test_every_range_follows_the_scrape_interval_or_the_shown_range():
    ranges = {text.split("[")[1].split("]")[0] for text in EXPRESSIONS if "[" in text}
    assert ranges == {"$__rate_interval", "$__range"}


def test_every_expression_keeps_to_the_chosen_studies():
    assert all('study=~"$study"' in text for text in EXPRESSIONS)


def test_panels_neither_overlap_nor_leave_the_grid():
    boxes = [panel["gridPos"] for panel in search_dashboard()["panels"]]
    cells = [(x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in range(b["y"], b["y"] + b["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < COLUMNS


def test_panel_ids_and_titles_are_unique():
    panels = search_dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)


@with_promtool
def test_every_panel_expression_parses(tmp_path):
    plain = [text.replace("$__rate_interval", "5m").replace("$__range", "1h") for text in EXPRESSIONS]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(plain)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", str(tmp_path / "rules.yaml"))


@with_promtool
def test_alert_rules_are_valid_and_fire_as_their_unit_tests_say():
    _promtool("check", "rules", str(FOLDER / "alerts.yaml"))
    _promtool("test", "rules", str(FOLDER / "alerts_test.yaml"))


@with_promtool
def test_prometheus_configuration_is_valid_and_loads_the_alert_rules():
    _promtool("check", "config", str(FOLDER / "prometheus.yaml"))
    assert yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["rule_files"] == ["alerts.yaml"]


@with_promtool
def test_promtool_refuses_a_broken_expression(tmp_path):
    (tmp_path / "rules.yaml").write_text("groups: [{name: a, rules: [{record: b, expr: 'sum by ('}]}]")
    with pytest.raises(AssertionError, match="could not parse expression"):
        _promtool("check", "rules", str(tmp_path / "rules.yaml"))


def _promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
