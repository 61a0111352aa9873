"""The trials of one study in its database: read once, and again only while they may change."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sql

from ray_tl.config import TrialConfig
from ray_tl.study import tables
from ray_tl.study.failures import FailureKind
from ray_tl.study.records import EpochRecord, TrialRecord, TrialState


class TrialRow:
    """A trial as the database holds it; it is parsed when it is asked for, and each epoch once.

    Attributes:
        state: As Optuna calls it.
        attributes: JSON by key; empty once a trial that has ended is parsed.
        has_begun: Whether it has a configuration.
    """

    def __init__(self, trial_id: int, number: int) -> None:
        self.trial_id, self.number = trial_id, number
        self.state = "RUNNING"
        self.attributes: dict[str, str] = {}
        self.has_begun = False
        self._config: TrialConfig | None = None
        self._epochs: dict[str, EpochRecord] = {}
        self._record: TrialRecord | None = None

    @property
    def is_open(self) -> bool:
        return self.state in tables.OPEN_STATES

    def update(self, state: str, attributes: Mapping[str, str]) -> None:
        """The database holds this now, beside what it held before."""
        self.state, self._record = state, None
        self.attributes.update(attributes)
        self.has_begun = "config" in self.attributes

    def record(self) -> TrialRecord:
        """Of a trial that has a configuration.

        Raises:
            LookupError, TypeError, ValueError: If it is not what was written.
        """
        if self._record is None:
            self._record = self._parsed()
        if not self.is_open:
            self.attributes, self._epochs = {}, {}
        return self._record

    def _parsed(self) -> TrialRecord:
        keys = sorted(key for key in self.attributes if key.startswith("epoch_"))
        for key in (key for key in keys if key not in self._epochs):
            self._epochs[key] = EpochRecord.model_validate(json.loads(self.attributes[key]))
        self._config = self._config or TrialConfig.model_validate(self._value("config"))
        epochs = [self._epochs[key] for key in keys]
        state = TrialState.RUNNING if self.is_open else TrialState(self._value("state"))
        return TrialRecord(
            number=self.number,
            state=state,
            config=self._config,
            epochs=epochs,
            checkpoint=f"checkpoints/{self.number:04d}.pt" if epochs and state is not TrialState.PRUNED else None,
            cost_s=sum(epoch.seconds for epoch in epochs) * self._value("num_workers", 1),
            error=self._value("error", None),
            failure=FailureKind(self._value("failure")) if "failure" in self.attributes else None,
            is_prepared="first" in self.attributes,
            is_baseline=self._value("first", None) == 0,
            is_advised="advised" in self.attributes,
            refit_of=self._value("refit_of", None),
            combines=tuple(self._value("combines", ())),
        )

    def _value(self, key: str, *default: object) -> Any:  # noqa: ANN401  what the record takes, it checks itself
        if default and key not in self.attributes:
            return default[0]
        return json.loads(self.attributes[key])


class TrialRows:
    """All trials of a study, by number.

    Reading takes one statement, which gives the trials that are new or were not final when they were read last. Who
    writes says what it has written, with `put`.

    Args:
        study_id: Of Optuna.
    """

    def __init__(self, study_id: int) -> None:
        self._study_id = study_id
        self._rows: dict[int, TrialRow] = {}
        self._open: dict[int, TrialRow] = {}
        self._last_id = -1
        self._begun: dict[str, set[int]] = {"search": set(), "first": set(), "advised": set()}
        self._ended: list[TrialRow] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[TrialRow]:
        """Those that have begun."""
        return (row for number in sorted(self._rows) if (row := self._rows[number]).has_begun)

    def __getitem__(self, number: int) -> TrialRow:
        """Raises `KeyError` if there is none, or it has not begun."""
        row = self._rows[number]
        if not row.has_begun:
            raise KeyError(number)
        return row

    @property
    def num_search(self) -> int:
        """Trials of the search itself, which refits are not."""
        return len(self._begun["search"])

    @property
    def open(self) -> list[TrialRow]:
        """That are not final, those that have not begun among them, by number."""
        return sorted(self._open.values(), key=lambda row: row.number)

    def taken(self, key: str) -> set[int]:
        """Which of the prepared things have begun: `first` or `advised`."""
        return self._begun[key]

    def news(self) -> list[TrialRow]:
        """Those that have begun and ended since this was asked for last, in the order in which it was noticed."""
        found, self._ended = self._ended, []
        return [row for row in found if row.has_begun]

    def refresh(self, connection: sql.Connection) -> None:
        """Read what may have changed."""
        found: dict[int, tuple[int, str, dict[str, str]]] = {}
        for trial_id, number, state, key, value in connection.execute(self._changed()):
            known = found.setdefault(trial_id, (number, state, {}))
            if key is not None:
                known[2][key] = value
        for trial_id, (number, state, attributes) in found.items():
            self.put(trial_id, number, state, attributes)

    def put(self, trial_id: int, number: int, state: str, attributes: Mapping[str, str]) -> TrialRow:
        """Take notice of what the database holds of a trial."""
        row = self._open.get(trial_id) or TrialRow(trial_id, number)
        row.update(state, attributes)
        self._rows[number] = self._open[trial_id] = row
        self._last_id = max(self._last_id, trial_id)
        if row.has_begun:
            self._count(row)
        if not row.is_open:
            del self._open[trial_id]
            self._ended.append(row)
        return row

    def _count(self, row: TrialRow) -> None:
        if "refit_of" not in row.attributes:
            self._begun["search"].add(row.number)
        for key in ("first", "advised"):
            if key in row.attributes:
                self._begun[key].add(int(json.loads(row.attributes[key])))

    def _changed(self) -> sql.Select:
        trials, attributes = tables.trials, tables.attributes
        is_news = trials.c.trial_id > self._last_id
        if self._open:
            is_news |= trials.c.trial_id.in_(list(self._open))
        return (
            sql.select(trials.c.trial_id, trials.c.number, trials.c.state, attributes.c.key, attributes.c.value_json)
            .select_from(trials.outerjoin(attributes, attributes.c.trial_id == trials.c.trial_id))
            .where(trials.c.study_id == self._study_id, is_news)
            .order_by(trials.c.trial_id)
        )
