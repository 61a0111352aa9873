"""Optuna's tables, as far as they are read and written here without Optuna: `optuna-dashboard` reads the same ones.

Optuna makes them, in `make_tables`, and checks their version there. Its own storage commits each parameter and each
attribute by itself, and reads all trials of a study to change one; here a change is one transaction of few statements.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sql

from ray_tl.study.records import TrialState

OPEN_STATES = ("RUNNING", "WAITING")  # of Optuna; trials of all other states never change
STATES = {
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAILED: "FAIL",
    TrialState.INFEASIBLE: "PRUNED",  # TPE learns from pruned trials alone that a constraint was violated
}
CONSTRAINT = "constraints:"
Params = Mapping[str, tuple[float, str]]
"""Number and distribution of each parameter, as stored."""
VALUE_KINDS = ("FINITE", "INF_POS", "INF_NEG")

_metadata = sql.MetaData()


def _table(name: str, key: str, *columns: sql.Column) -> sql.Table:
    return sql.Table(name, _metadata, sql.Column(key, sql.Integer, primary_key=True), *columns)


def _of_trial(name: str, key: str, *columns: sql.Column) -> sql.Table:
    return _table(name, key, sql.Column("trial_id", sql.Integer), *columns)


studies = _table("studies", "study_id", sql.Column("study_name", sql.String))
study_directions = _table(
    "study_directions",
    "study_direction_id",
    sql.Column("study_id", sql.Integer),
    sql.Column("direction", sql.Enum("NOT_SET", "MINIMIZE", "MAXIMIZE", name="studydirection")),
    sql.Column("objective", sql.Integer),
)
study_attributes = _table(
    "study_user_attributes",
    "study_user_attribute_id",
    sql.Column("study_id", sql.Integer),
    sql.Column("key", sql.String),
    sql.Column("value_json", sql.Text),
)
trials = _table(
    "trials",
    "trial_id",
    sql.Column("number", sql.Integer),
    sql.Column("study_id", sql.Integer),
    sql.Column("state", sql.Enum("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING", name="trialstate")),
    sql.Column("datetime_start", sql.DateTime),
    sql.Column("datetime_complete", sql.DateTime),
)
attributes = _of_trial(
    "trial_user_attributes",
    "trial_user_attribute_id",
    sql.Column("key", sql.String),
    sql.Column("value_json", sql.Text),
)
system_attributes = _of_trial(
    "trial_system_attributes",
    "trial_system_attribute_id",
    sql.Column("key", sql.String),
    sql.Column("value_json", sql.Text),
)
params = _of_trial(
    "trial_params",
    "param_id",
    sql.Column("param_name", sql.String),
    sql.Column("param_value", sql.Float),
    sql.Column("distribution_json", sql.Text),
)
values = _of_trial(
    "trial_values",
    "trial_value_id",
    sql.Column("objective", sql.Integer),
    sql.Column("value", sql.Float),
    sql.Column("value_type", sql.Enum(*VALUE_KINDS, name="trialvaluetype")),
)
intermediate_values = _of_trial(
    "trial_intermediate_values",
    "trial_intermediate_value_id",
    sql.Column("step", sql.Integer),
    sql.Column("intermediate_value", sql.Float),
    sql.Column("intermediate_value_type", sql.Enum(*VALUE_KINDS, "NAN", name="trialintermediatevaluetype")),
)


@dataclass(frozen=True)
class Drawn:
    """Parameters that a sampler drew.

    Attributes:
        internal: Each as a number; of a choice, its index.
        distributions: Of each, as JSON.
    """

    internal: Mapping[str, float] = field(default_factory=dict)
    distributions: Mapping[str, str] = field(default_factory=dict)


def make_tables(engine: sql.Engine) -> None:
    """Let Optuna make the tables where they are missing.

    Raises:
        RuntimeError: If there are those of another version of Optuna.
    """
    import optuna  # readers do without it

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.storages.RDBStorage(str(engine.url), {"pool": engine.pool})


def insert_study(connection: sql.Connection, name: str) -> int:
    """An empty study whose objective is maximised; gives its key.

    Raises:
        IntegrityError: Of SQLAlchemy, if its name is taken.
    """
    added = connection.execute(sql.insert(studies).values(study_name=name)).inserted_primary_key[0]  # type: ignore[index]
    direction = {"study_id": added, "direction": "MAXIMIZE", "objective": 0}
    connection.execute(sql.insert(study_directions).values(direction))
    return int(added)


def study_id(connection: sql.Connection, name: str) -> int:
    """Optuna's key of a study; raises `KeyError` if there is none."""
    found = connection.scalar(sql.select(studies.c.study_id).where(studies.c.study_name == name))
    if found is None:
        raise KeyError(name)
    return int(found)


def stored_value(value: float) -> tuple[float | None, str]:
    """A number as Optuna stores it: what SQL can't hold is a kind."""
    if math.isnan(value):
        return None, "NAN"
    if math.isinf(value):
        return None, "INF_POS" if value > 0 else "INF_NEG"
    return value, "FINITE"


def now() -> datetime:
    """As Optuna stores it: UTC, without saying so."""
    return datetime.now(UTC).replace(tzinfo=None)
