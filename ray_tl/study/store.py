"""The durable memory of a search, which `optuna-dashboard` reads too."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property, wraps
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sql
from pydantic import ValidationError

from ray_tl.config import TrialConfig
from ray_tl.errors import BrokenStudy, InvalidInput, UnknownName, all_at_once
from ray_tl.registry import Scalar
from ray_tl.search_space import SearchOptions, SearchSpace, explain, validated
from ray_tl.study import statements, tables
from ray_tl.study.artifacts import Artifacts, RemoteArtifacts, artifacts_of
from ray_tl.study.backend import CHAMPION_FILE, SPEC_FILE, Backend
from ray_tl.study.damage import reading, unreadable
from ray_tl.study.failures import FailureKind
from ray_tl.study.folder import FolderBackend
from ray_tl.study.records import EpochRecord, StudySpec, TrialRecord, TrialState, violated_constraint
from ray_tl.study.statements import as_json
from ray_tl.study.studies import check_name
from ray_tl.study.trial_rows import TrialRow, TrialRows

if TYPE_CHECKING:
    from ray_tl.study.sampling import StudySampler

__all__ = ["CHAMPION_FILE", "StudyStore"]

FORMAT = 1
CHANGEABLE = {"num_trials", "time_budget_s", "refit"}  # of the search options, in a study that has begun
P = ParamSpec("P")
R = TypeVar("R")


def _up_to_date(method: Callable[Concatenate["StudyStore", P], R]) -> Callable[Concatenate["StudyStore", P], R]:
    """One thread at a time, and only once it is known what others have written."""

    @wraps(method)
    def wrapped(store: "StudyStore", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with store._mutex, store.backend.using():
            store._refresh()
            return method(store, *args, **kwargs)

    return wrapped


class StudyStore:
    """Trials of one study; threads may share it.

    One process at a time searches (`exclusive`), any number read. Every method leaves the store whole when the process
    is killed inside it, as it is one transaction. What has been read of a trial that has ended is not read again, and
    while this process searches it knows what there is: a trial costs the same, however many there are.

    Args:
        study: Its folder, or another place where it is kept.

    Raises:
        UnknownName: If there is no study.
        BrokenStudy: If it was written by another version of ray_tl, or by hand, or is damaged.
        StorageFailed: From any method, if the system refuses to read or write.
        StudyBusy: From any method, if another process keeps the database locked for a minute.
    """

    def __init__(self, study: Backend | Path) -> None:
        self.backend = _backend(study)
        self.folder = self.backend.folder
        self.spec = _read_spec(self.backend)
        search = self.spec.search
        self.space = SearchSpace(self.spec.trees, search.epochs, search.seed, search.min_steps)
        self.backend.require_database()
        self._mutex = RLock()
        self._held: sql.Connection | None = None
        self._is_current = False
        self._sampler: StudySampler | None = None
        with self._reading(), self.backend.using(), self.backend.engine.connect() as connection:
            self._study_id = tables.study_id(connection, self.spec.name)
            self._rows = TrialRows(self._study_id)
            self._rows.refresh(connection)
        self._num_at_opening = len(self._rows)

    @classmethod
    def open_for_reading(cls, study: Backend | Path) -> "StudyStore":
        """A study to look at, which may be where nothing can be written; errors as of the class."""
        return cls(_backend(study).for_reading())

    @classmethod
    def create(cls, study: Backend | Path, spec: StudySpec) -> "StudyStore":
        """A new, empty study.

        Raises:
            InvalidInput: If the name breaks the rule, or there is a study already.
            StorageFailed: If the system refuses to write it; nothing of it stays then.
        """
        check_name("study", spec.name)
        backend = _backend(study)
        backend.create(spec.name, _as_bytes(spec))
        return cls(backend)

    @property
    def resume_command(self) -> str:
        """The command that resumes an interrupted search, with all options it needs to find the study."""
        return f"ray-tl search --resume {self.spec.name}{self.backend.command_options}"

    @cached_property
    def artifacts(self) -> Artifacts:
        """Where checkpoints and evidence are kept; what is read from an address is copied to the study's folder."""
        return artifacts_of(self.spec, self.folder, with_copies=True)

    def keep_artifacts_at(self, address: str) -> None:
        """Keep checkpoints and evidence at an address from now on; what is in the folder already is brought there.

        Raises:
            InvalidInput: If they are at another address, or another study of this name has files there.
            StudyBusy: If the study is being searched.
        """
        if self.spec.artifacts not in (None, address):
            raise InvalidInput(
                f"artifacts={address!r}: the study has its files at {self.spec.artifacts!r}; leave it out."
            )
        with self.exclusive():
            place = RemoteArtifacts(address, self.spec.name)
            place.claim(self.spec)
            if self.spec.artifacts is None:
                place.bring(self.folder)
                self._change(artifacts=address)
        self.__dict__.pop("artifacts", None)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the study for searching; freed when the process ends, however it ends.

        Raises:
            StudyBusy: If another process holds it.
        """
        with self.backend.held(self.spec.name, self._study_id) as connection:
            self._held, self._is_current = connection, False
            try:
                yield
            finally:
                with self._mutex:
                    self._held = None

    def is_searched(self) -> bool:
        """Whether a process holds the study now."""
        return self.backend.is_held(self._study_id)

    @_up_to_date
    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return [self._record(row) for row in self._rows]

    def update_search(self, **settings: object) -> None:
        """Change how long to search; what was found stays.

        Raises:
            InvalidInput: If a value breaks its rule, or a setting is not one of `CHANGEABLE`: the others would make
                trials incomparable.
        """
        if fixed := sorted(set(settings) - CHANGEABLE):
            raise InvalidInput(
                f"{', '.join(fixed)} can't change in a study that has begun; begin a new one, or leave it out."
            )
        search = validated(SearchOptions, {**self.spec.search.model_dump(), **settings}, "settings")
        self._change(search=search)

    @_up_to_date
    def reconcile(self) -> list[TrialRecord]:
        """Trials of the search that were running when it ended; they go on before any new one starts.

        A trial that an older version was killed in before it had a configuration never began: it is closed.
        """
        for row in [row for row in self._rows.open if not row.has_begun]:
            self._end(row, TrialState.FAILED, None)
        return [trial for trial in self._running() if trial.refit_of is None]

    @_up_to_date
    def num_asked(self) -> int:
        """Trials of the search; refits come on top."""
        return self._rows.num_search

    @_up_to_date
    def ask(self) -> TrialRecord:
        """The next new trial: the prepared ones first, then those that are advised, then the sampler's."""
        first = _remaining(len(self.spec.first), self._rows.taken("first"))
        if first:
            return self._begin({"first": first[0]}, self.spec.first[first[0]])
        advised = _remaining(len(self.spec.advice), self._rows.taken("advised"))
        if advised:
            return self._begin({"advised": advised[0]}, *self._draw(self.spec.advice[advised[0]].params))
        return self._begin({}, *self._draw({}))

    @_up_to_date
    def begin_refit(self, of: int, config: TrialConfig, combines: Sequence[int] = ()) -> TrialRecord:
        """A trial that the sampler has not asked for and does not learn from.

        Args:
            of: Number of the trial that was chosen.
            config: Its own, with another seed.
            combines: Numbers of refits, if it is made of these instead of trained.
        """
        return self._begin({"refit_of": of, "combines": list(combines)}, config)

    @_up_to_date
    def add_epoch(self, number: int, record: EpochRecord, num_workers: int) -> None:
        """Remember an epoch; one that is known already changes nothing.

        Args:
            number: Of the trial.
            record: Of the epoch.
            num_workers: How many workers trained it, for the cost.
        """
        row, key = self._row(number), f"epoch_{record.epoch:04d}"
        if not row.is_open or key in row.attributes:
            return
        news = as_json({"num_workers": num_workers, key: record.model_dump(mode="json")})
        with self._writing() as connection:
            statements.write_epoch(connection, row.trial_id, record.epoch, record.objective, news)
        self._rows.put(row.trial_id, number, row.state, news)

    @_up_to_date
    def finish(
        self, number: int, state: TrialState, error: str | None = None, failure: FailureKind | None = None
    ) -> None:
        """Give a trial its final state; a trial that has one keeps it.

        The value of a complete or pruned trial is its last objective. A trial that ended before its first epoch
        failed; one that ran out of memory is infeasible. What speaks of the configuration the sampler learns as a
        violated constraint. Of a refit it learns nothing: for Optuna it failed, whatever its state is.
        """
        row = self._row(number)
        if not row.is_open:
            return
        record = self._record(row)
        if record.last is None and state in (TrialState.COMPLETE, TrialState.PRUNED):
            state, error = TrialState.FAILED, error or "it ended before its first epoch."
        self._end(row, state, record.last, failure, {"error": error} if error else {})

    @_up_to_date
    def trial(self, number: int) -> TrialRecord:
        """One trial.

        Raises:
            UnknownName: If there is none of that number.
        """
        return self._record(self._row(number))

    def seconds(self) -> float:
        """From the study's creation to the last change of a trial."""
        created = datetime.fromisoformat(self.spec.created_at).timestamp()
        return max(0.0, self.backend.changed_at(self._study_id) - created)

    def write_json(self, name: str, content: object) -> None:
        """Replace a small file of the study in one step."""
        self.backend.write_file(name, json.dumps(content, indent=2).encode())

    def read_json(self, name: str) -> dict[str, object] | None:
        """What `write_json` wrote; `None` if nothing.

        Raises:
            BrokenStudy: If it is not that any more.
        """
        found = self.backend.read_file(name)
        if found is None:
            return None
        try:
            content = json.loads(found)
        except (ValueError, RecursionError) as error:
            raise self.unreadable(name, str(error)) from error
        if not isinstance(content, dict):
            raise self.unreadable(name, "it holds no mapping")
        return content

    def unreadable(self, name: str, why: str) -> BrokenStudy:
        """An error for a small file that is not what was written."""
        return unreadable(self.backend.place_of(name), self.spec.name, why)

    def _change(self, **fields: object) -> None:
        """Store the spec with changed fields."""
        self.spec = self.spec.model_copy(update=fields)
        self.backend.write_file(SPEC_FILE, _as_bytes(self.spec))

    def _refresh(self) -> None:
        """Read what others may have written; while this process holds the study, there are no others."""
        if self._held is not None and self._is_current:
            return
        with self._reading(), self._connected() as connection:
            self._rows.refresh(connection)
        self._is_current = True

    @contextmanager
    def _connected(self) -> Iterator[sql.Connection]:
        if self._held is None:
            with self.backend.engine.connect() as connection:
                yield connection
            return
        try:
            yield self._held
        finally:
            self._held.rollback()  # of a statement that read, which leaves a transaction open

    @contextmanager
    def _writing(self) -> Iterator[sql.Connection]:
        """A transaction; if it fails, what was written is not known."""
        self._is_current = False
        if self._held is None:
            with self.backend.engine.begin() as connection:
                yield connection
        else:
            with self._held.begin():
                yield self._held
        self._is_current = True

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with reading(self.backend.broken, self.backend.place_of("")):
            yield

    def _begin(
        self, marks: Mapping[str, object], config: TrialConfig, drawn: tables.Drawn | None = None
    ) -> TrialRecord:
        attributes = as_json({**marks, "config": config.model_dump(mode="json")})
        number = len(self._rows)
        with self._writing() as connection:
            trial_id = statements.insert_trial(connection, self._study_id, number, attributes, drawn or tables.Drawn())
        return self._record(self._rows.put(trial_id, number, "RUNNING", attributes))

    def _draw(self, fixed: Mapping[str, Scalar]) -> tuple[TrialConfig, tables.Drawn]:
        if self._sampler is None:
            from ray_tl.study.sampling import StudySampler  # it takes Optuna, which readers do without

            self._sampler = StudySampler(self.space, self.spec.search, num_trials=self._num_at_opening)
        for row in self._rows.news():
            self._sampler.learn(self._record(row))
        running = [trial for trial in self._running() if trial.refit_of is None]
        return self._sampler.draw(len(self._rows), running, self._params_of, fixed)

    def _params_of(self, numbers: Collection[int]) -> Mapping[int, tables.Params]:
        ids = {self._rows[number].trial_id: number for number in numbers}
        with self._connected() as connection:
            found = statements.read_params(connection, ids)
        return {ids[trial_id]: params for trial_id, params in found.items()}

    def _end(
        self,
        row: TrialRow,
        state: TrialState,
        last: EpochRecord | None,
        failure: FailureKind | None = None,
        marks: Mapping[str, object] | None = None,
    ) -> None:
        """Whatever state it has for us, a refit has failed for Optuna, which so learns nothing of it."""
        is_refit = "refit_of" in row.attributes
        violated = None if is_refit else violated_constraint(state, failure)
        optuna_state = tables.STATES[TrialState.FAILED if is_refit else TrialState.INFEASIBLE if violated else state]
        value = None if optuna_state == "FAIL" or last is None else last.objective
        kind = {} if failure is None else {"failure": failure.value}
        attributes = as_json({**(marks or {}), **kind, "state": state.value})
        with self._writing() as connection:
            statements.write_end(connection, row.trial_id, optuna_state, value, attributes, violated)
        self._rows.put(row.trial_id, row.number, optuna_state, attributes)

    def _running(self) -> list[TrialRecord]:
        return [self._record(row) for row in self._rows.open if row.has_begun]

    def _row(self, number: int) -> TrialRow:
        try:
            return self._rows[number]
        except KeyError:
            numbers = f"it has {len(list(self._rows))} trials"
            raise UnknownName(f"trial={number} is not in study {self.spec.name!r}; {numbers}.") from None

    def _record(self, row: TrialRow) -> TrialRecord:
        with self._reading():
            return row.record()


def _backend(study: Backend | Path) -> Backend:
    return FolderBackend(study) if isinstance(study, Path) else study


def _as_bytes(spec: StudySpec) -> bytes:
    return spec.model_dump_json(indent=2).encode()


def _read_spec(backend: Backend) -> StudySpec:
    place, content = backend.place_of(SPEC_FILE), backend.read_file(SPEC_FILE)
    if content is None:
        raise UnknownName(f"{backend.folder} holds no study; its {SPEC_FILE} is missing.")
    if (found := _format_of(content)) not in (None, FORMAT):
        rule = f"is of another version of ray_tl, this one reads {FORMAT}"
        raise BrokenStudy(f"{place}: format={found!r} {rule}; open it with the version that wrote it.")
    try:
        return StudySpec.model_validate_json(content)
    except ValidationError as error:
        raise backend.broken(str(all_at_once(place, explain(error, StudySpec)))) from error


def _format_of(content: bytes) -> object:
    try:
        spec = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return spec.get("format") if isinstance(spec, dict) else None


def _remaining(count: int, taken: Collection[int]) -> list[int]:
    """Which of the prepared things have not begun yet."""
    return [index for index in range(count) if index not in taken]
