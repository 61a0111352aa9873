"""The statements by which the trials of a study are read and written; those that write are parts of a transaction."""

import json
import math
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sql

from ray_tl.study import tables


def insert_trial(
    connection: sql.Connection, study_id: int, number: int, attributes: Mapping[str, str], drawn: tables.Drawn
) -> int:
    """A new running trial; gives its key.

    Args:
        attributes: JSON by key.
        drawn: By the sampler.
    """
    row = {"number": number, "study_id": study_id, "state": "RUNNING", "datetime_start": tables.now()}
    trial_id = connection.execute(sql.insert(tables.trials).values(row)).inserted_primary_key[0]  # type: ignore[index]
    params = [
        {"param_name": name, "param_value": value, "distribution_json": drawn.distributions[name]}
        for name, value in drawn.internal.items()
    ]
    _insert(connection, tables.params, trial_id, params)
    _insert(connection, tables.attributes, trial_id, _pairs(attributes))
    return int(trial_id)


def write_epoch(
    connection: sql.Connection, trial_id: int, step: int, objective: float, attributes: Mapping[str, str]
) -> None:
    value, kind = tables.stored_value(objective)
    steps = tables.intermediate_values
    connection.execute(sql.delete(steps).where(steps.c.trial_id == trial_id, steps.c.step == step))
    _insert(connection, steps, trial_id, [{"step": step, "intermediate_value": value, "intermediate_value_type": kind}])
    write_attributes(connection, tables.attributes, trial_id, attributes)


def write_end(
    connection: sql.Connection,
    trial_id: int,
    state: str,
    objective: float | None,
    attributes: Mapping[str, str],
    violated: str | None = None,
) -> None:
    """The final state of a trial, as Optuna calls it, and the constraint that it violated; it keeps a state it has."""
    if violated is not None:
        write_attributes(connection, tables.system_attributes, trial_id, {f"{tables.CONSTRAINT}{violated}": "1.0"})
    write_attributes(connection, tables.attributes, trial_id, attributes)
    if objective is not None and not math.isnan(objective):
        value, kind = tables.stored_value(objective)
        connection.execute(sql.delete(tables.values).where(tables.values.c.trial_id == trial_id))
        _insert(connection, tables.values, trial_id, [{"objective": 0, "value": value, "value_type": kind}])
    changes = {"state": state, "datetime_complete": tables.now()}
    connection.execute(sql.update(tables.trials).where(tables.trials.c.trial_id == trial_id).values(changes))


def read_params(connection: sql.Connection, trial_ids: Collection[int]) -> dict[int, tables.Params]:
    """What samplers drew for trials, by their keys."""
    if not trial_ids:
        return {}
    params = tables.params
    query = (
        sql.select(params.c.trial_id, params.c.param_name, params.c.param_value, params.c.distribution_json)
        .where(params.c.trial_id.in_(list(trial_ids)))
        .order_by(params.c.param_id)
    )
    found: dict[int, dict[str, tuple[float, str]]] = {}
    for trial_id, name, value, distribution in connection.execute(query):
        found.setdefault(trial_id, {})[name] = value, distribution
    return dict(found)


def write_attributes(
    connection: sql.Connection, table: sql.Table, trial_id: int, attributes: Mapping[str, str]
) -> None:
    """Instead of what is there: half of it may be, of an older version that was killed."""
    if attributes:
        connection.execute(sql.delete(table).where(table.c.trial_id == trial_id, table.c.key.in_(list(attributes))))
        _insert(connection, table, trial_id, _pairs(attributes))


def as_json(values: Mapping[str, object]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in values.items()}


def _pairs(attributes: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"key": key, "value_json": value} for key, value in attributes.items()]


def _insert(connection: sql.Connection, table: sql.Table, trial_id: int, rows: Iterable[dict[str, object]]) -> None:
    if filled := [{"trial_id": trial_id, **row} for row in rows]:
        connection.execute(sql.insert(table), filled)
