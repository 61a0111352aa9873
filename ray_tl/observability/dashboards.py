"""The dashboard of a search, generated from the metric table.

`python -m ray_tl.observability.dashboards` writes `dashboards/search.json` anew; the file is never edited by hand.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ray_tl.observability.metrics import Unit, metric

Json = dict[str, object]
PanelType = Literal["timeseries", "stat", "table", "heatmap", "state-timeline"]

FOLDER_UID = "ray-tl"
FOLDER_TITLE = "ray_tl"
SEARCH_UID = "ray-tl-search"
EVENT_TAG = "ray-tl"
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

Expression = Callable[[str], str]

_LEGEND: Json = {"displayMode": "list", "placement": "bottom", "showLegend": True}
_OPTIONS: dict[PanelType, Json] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {"colorMode": "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
    "table": {"showHeader": True, "sortBy": [{"displayName": "score", "desc": True}]},
    "heatmap": {
        "calculate": False,
        "yAxis": {"unit": "s"},
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Blues"},
    },
    "state-timeline": {"showValue": "auto", "mergeValues": True, "rowHeight": 0.8, "legend": {"showLegend": False}},
}
_DEFAULTS: dict[PanelType, Json] = {
    "timeseries": {"custom": {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 5, "showPoints": "auto"}},
    "state-timeline": {"color": {"mode": "continuous-blues"}, "custom": {"fillOpacity": 80, "lineWidth": 0}},
}
_COLUMN_NAMES: Json = {"Value #A": "score", "Value #B": "epoch"}
_MERGED: list[Json] = [
    {"id": "merge", "options": {}},
    {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": _COLUMN_NAMES}},
]


@dataclass(frozen=True)
class Query:
    """One PromQL expression and the legend of its series, in Grafana's `{{label}}` notation."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel; `width` is in 24ths of the dashboard, `height` in Grafana's rows of 30 pixels."""

    title: str
    type: PanelType
    unit: Unit
    queries: tuple[Query, ...]
    width: int
    height: int = 8


def search_dashboard() -> Json:
    """The dashboard as Grafana's API takes it, without what Grafana adds itself (`id`, `version`)."""
    return {
        "uid": SEARCH_UID,
        "title": "ray_tl search",
        "description": "Generated from ray_tl's metric table; changes made here are overwritten.",
        "tags": ["ray_tl"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource_variable(), _study_variable()]},
        "annotations": {"list": [_event_annotations()]},
        "panels": _placed(search_panels()),
    }


def search_panels() -> tuple[Panel, ...]:
    """What the dashboard shows, top to bottom: the result, the trials, their training, the machines."""
    return (
        _panel("Best score", "stat", [("tl_best_score", _latest, "{{study}}")], width=6, height=5),
        _panel("Trials", "stat", [("tl_trials", _latest, "{{study}} {{state}}")], width=8, height=5),
        _panel(
            "Slots", "stat", [("tl_slots_busy", _latest, "busy"), ("tl_slots", _latest, "total")], width=4, height=5
        ),
        _panel("Queue", "stat", [("tl_queue_length", _latest, "{{study}}")], width=3, height=5),
        _panel(
            "Slot restarts", "stat", [("tl_slot_restarts_total", _increase_in_range, "{{slot}}")], width=3, height=5
        ),
        _panel("Best score so far", "timeseries", [("tl_best_score", _latest, "{{study}}")], width=12),
        _panel("Score of running trials", "timeseries", [("tl_trial_score", _latest, "{{trial}}")], width=12),
        _panel("Running trials", "table", [("tl_trial_score", _latest, ""), ("tl_trial_epoch", _latest, "")], width=12),
        _panel("Epoch of each trial", "state-timeline", [("tl_trial_epoch", _latest, "{{trial}}")], width=12),
        _panel("Scores", "timeseries", [("tl_trial_validator_score", _latest, "{{trial}} {{validator}}")], width=8),
        _panel("Losses", "timeseries", [("tl_trial_loss", _latest, "{{trial}} {{loss}}")], width=8),
        _panel("Loss weights", "timeseries", [("tl_trial_loss_weight", _latest, "{{trial}} {{loss}}")], width=8),
        _panel("Trials by state", "timeseries", [("tl_trials", _latest, "{{study}} {{state}}")], width=12),
        _panel(
            "Slots and queue",
            "timeseries",
            [
                ("tl_slots_busy", _latest, "{{study}} busy"),
                ("tl_slots", _latest, "{{study}} total"),
                ("tl_queue_length", _latest, "{{study}} waiting"),
            ],
            width=12,
        ),
        _panel("Epoch time", "heatmap", [("tl_epoch_seconds", _bucket_rates, "{{le}}")], width=8),
        _panel(
            "Trial time",
            "timeseries",
            [("tl_trial_seconds", _median, "{{study}} median"), ("tl_trial_seconds", _percentile_95, "{{study}} 95 %")],
            width=8,
        ),
        _panel(
            "Restarts of slots", "timeseries", [("tl_slot_restarts_total", _increase, "{{study}} {{slot}}")], width=8
        ),
    )


def as_text(dashboard: Json) -> str:
    """The one text of a dashboard: equal dashboards give equal files."""
    return json.dumps(dashboard, indent=1, sort_keys=True) + "\n"


def write(folder: Path) -> Path:
    """Write `search.json` into an existing folder and return its path."""
    path = folder / "search.json"
    path.write_text(as_text(search_dashboard()), encoding="utf-8")
    return path


# Every expression takes the largest or the sum over exporters, for a restarted one is briefly there twice.


def _latest(name: str) -> str:
    return f"max by ({', '.join(metric(name).labels)}) ({_selected(metric(name).exported)})"


def _increase(name: str) -> str:
    return f"sum by (study, slot) (increase({_selected(metric(name).exported)}[$__rate_interval]))"


def _increase_in_range(name: str) -> str:
    return f"sum by (study, slot) (increase({_selected(metric(name).exported)}[$__range]))"


def _bucket_rates(name: str) -> str:
    return f"sum by (le) (rate({_selected(metric(name).exported + '_bucket')}[$__rate_interval]))"


def _median(name: str) -> str:
    return _quantile(0.5, name)


def _percentile_95(name: str) -> str:
    return _quantile(0.95, name)


def _quantile(share: float, name: str) -> str:
    # Never a mean: Ray rebuilds `_sum` from the middles of the buckets.
    buckets = _selected(metric(name).exported + "_bucket")
    return f"histogram_quantile({share}, sum by (le, study) (rate({buckets}[$__rate_interval])))"


def _selected(series: str) -> str:
    return f'{series}{{study=~"$study"}}'


def _panel(
    title: str, type: PanelType, rows: Sequence[tuple[str, Expression, str]], width: int, height: int = 8
) -> Panel:
    queries = tuple(Query(expression(name), legend) for name, expression, legend in rows)
    return Panel(title, type, metric(rows[0][0]).unit, queries, width, height)


def _placed(panels: Sequence[Panel]) -> list[Json]:
    placed: list[Json] = []
    x, y, row_height = 0, 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        placed.append({**_as_json(panel), "id": number, "gridPos": _box(panel, x, y)})
        x, row_height = x + panel.width, max(row_height, panel.height)
    return placed


def _box(panel: Panel, x: int, y: int) -> Json:
    return {"x": x, "y": y, "w": panel.width, "h": panel.height}


def _as_json(panel: Panel) -> Json:
    return {
        "title": panel.title,
        "type": panel.type,
        "datasource": DATASOURCE,
        "targets": [_target(panel, query, chr(ord("A") + index)) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": {"unit": panel.unit, **_DEFAULTS.get(panel.type, {})}, "overrides": []},
        "options": _OPTIONS[panel.type],
        "transformations": _MERGED if panel.type == "table" else [],
    }


def _target(panel: Panel, query: Query, letter: str) -> Json:
    now_only = panel.type in ("stat", "table")
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": query.expression,
        "legendFormat": query.legend,
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.type, "time_series"),
        "instant": now_only,
        "range": not now_only,
    }


def _datasource_variable() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _study_variable() -> Json:
    values = f"label_values({metric('tl_slots').exported}, study)"
    return {
        "name": "study",
        "label": "Study",
        "type": "query",
        "datasource": DATASOURCE,
        "definition": values,
        "query": {"query": values, "refId": "study"},
        "refresh": 2,  # by time range: the studies that ran in it
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _event_annotations() -> Json:
    return {
        "name": "Events",
        "enable": True,
        "iconColor": "purple",
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "target": {"type": "tags", "tags": [EVENT_TAG], "matchAny": True, "limit": 100},
    }


if __name__ == "__main__":
    print(write(Path("dashboards")))
