"""The durable memory of a search: one folder, one SQLite database that `optuna-dashboard` reads too."""

import fcntl
import json
import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial, wraps
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TextIO, TypeVar

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from pydantic import ValidationError

from ray_tl.config import TrialConfig
from ray_tl.errors import BrokenStudy, InvalidInput, StudyBusy, UnknownName, all_at_once
from ray_tl.files import removed_on_failure, write_atomically
from ray_tl.registry import did_you_mean
from ray_tl.search_space import SearchOptions, SearchSpace, explain, validated
from ray_tl.study.damage import broken_study, reading, unreadable, using_database
from ray_tl.study.failures import FailureKind
from ray_tl.study.records import EpochRecord, StudySpec, TrialRecord, TrialState

optuna.logging.set_verbosity(optuna.logging.ERROR)  # of a damaged database it would warn beside our message
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # TPE's `group`, here on purpose

SPEC_FILE = "study.json"
CHAMPION_FILE = "champion.json"
LOCK_FILE = "search.lock"
DATABASE = "study.db"
LOCK_TIMEOUT_S = 60
FORMAT = 1
CHANGEABLE = {"num_trials", "time_budget_s", "refit"}  # of the search options, in a study that has begun
NAME_RULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OPTUNA_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.INFEASIBLE: OptunaState.PRUNED,  # TPE learns from pruned trials alone that a constraint was violated
}


P = ParamSpec("P")
R = TypeVar("R")


def _with_database(method: Callable[Concatenate["StudyStore", P], R]) -> Callable[Concatenate["StudyStore", P], R]:
    @wraps(method)
    def wrapped(store: "StudyStore", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with using_database(store.folder / DATABASE):
            return method(store, *args, **kwargs)

    return wrapped


class StudyStore:
    """Trials of one study.

    One process at a time searches (`exclusive`), any number read. Every method leaves the store whole when the
    process is killed inside it: the epoch records are the truth, states and values are derived from them.

    Args:
        folder: Of the study.
        mode: Of SQLite, `ro` if nothing may be written; see `open_for_reading`.

    Raises:
        UnknownName: If the folder holds no study.
        BrokenStudy: If it was written by another version of ray_tl, or by hand, or is damaged.
        StorageFailed: From any method, if the system refuses to read or write.
        StudyBusy: From any method, if another process keeps the database locked for a minute.
    """

    def __init__(self, folder: Path, mode: Literal["rw", "ro"] = "rw") -> None:
        self.folder = folder
        self.spec = _read_spec(folder)
        search = self.spec.search
        self.space = SearchSpace(self.spec.trees, search.epochs, search.seed, search.min_steps)
        if not (folder / DATABASE).is_file():
            raise broken_study(folder, f"{folder / DATABASE} is missing")
        with reading(folder), using_database(folder / DATABASE):
            self._storage = _storage(folder, mode)
            self._study = optuna.load_study(study_name=self.spec.name, storage=self._storage)
            self._study_id = self._storage.get_study_id_from_name(self.spec.name)
        self._study.sampler = _sampler(self.spec, num_trials=len(self._stored()))

    @classmethod
    def open_for_reading(cls, folder: Path) -> "StudyStore":
        """A study to look at, which may be where nothing can be written; errors as of the class.

        Where it can be written, SQLite may finish what a killed search has left half-written.
        """
        may_write = all(os.access(path, os.W_OK) for path in (folder, folder / DATABASE))
        return cls(folder, "rw" if may_write else "ro")

    @classmethod
    def create(cls, folder: Path, spec: StudySpec) -> "StudyStore":
        """A new, empty study.

        Raises:
            InvalidInput: If the name breaks the rule, or there is a study already.
            StorageFailed: If the system refuses to write it; nothing of it stays then.
        """
        check_name("study", spec.name)
        if (folder / SPEC_FILE).exists():
            raise InvalidInput(
                f"study={spec.name!r} exists already in {folder}; go on with it by --resume {spec.name}, "
                "or choose another --name."
            )
        with removed_on_failure(*(path for path in (folder,) if not path.exists())):
            folder.mkdir(parents=True, exist_ok=True)
            with using_database(folder / DATABASE):
                optuna.create_study(
                    study_name=spec.name, storage=_storage(folder, "rwc"), direction="maximize", load_if_exists=True
                )
            cls._write_spec(folder, spec)
            return cls(folder)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the study for searching; freed by the operating system when the process ends, however it ends.

        Raises:
            StudyBusy: If another process holds it.
        """
        with open(self.folder / LOCK_FILE, "a+") as lock:
            if not _locked(lock, fcntl.LOCK_EX):
                lock.seek(0)
                raise StudyBusy(
                    f"study={self.spec.name!r} is being searched by process {lock.read().strip() or '?'}; "
                    "wait for it, or stop it and resume."
                )
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def is_searched(self) -> bool:
        """Whether a process holds the study now."""
        if not (self.folder / LOCK_FILE).exists():
            return False
        with open(self.folder / LOCK_FILE) as lock:
            return not _locked(lock, fcntl.LOCK_SH)  # shared: those who look are not in each other's way

    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return [self._record(trial) for trial in self._stored() if "config" in trial.user_attrs]

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
        self.spec = self.spec.model_copy(update={"search": search})
        self._write_spec(self.folder, self.spec)

    @_with_database
    def reconcile(self) -> list[TrialRecord]:
        """Trials of the search that were running when it ended; they go on before any new one starts.

        A trial that was killed before it had a configuration never began: it is closed.
        """
        for trial in self._study.get_trials(deepcopy=False):
            if "config" not in trial.user_attrs and trial.state is OptunaState.RUNNING:
                self._study.tell(trial.number, state=OptunaState.FAIL)
        return [trial for trial in self.trials() if trial.state is TrialState.RUNNING and trial.refit_of is None]

    def num_asked(self) -> int:
        """Trials of the search; refits come on top."""
        return sum(trial.refit_of is None for trial in self.trials())

    @_with_database
    def ask(self) -> TrialRecord:
        """The next new trial: the prepared ones first, then those that are advised, then the sampler's."""
        begun = [trial.user_attrs for trial in self._study.get_trials(deepcopy=False) if "config" in trial.user_attrs]
        prepared = _remaining(len(self.spec.first), "first", begun)
        advised = [] if prepared else _remaining(len(self.spec.advice), "advised", begun)
        if advised and not self._is_waiting():  # a search that was killed right here has left one
            self._study.enqueue_trial(self.spec.advice[advised[0]].params, {"advised": advised[0]})
        trial = self._study.ask()
        config = self.spec.first[prepared[0]] if prepared else self.space.sample(trial)
        if prepared:
            trial.set_user_attr("first", prepared[0])
        trial.set_user_attr("config", config.model_dump(mode="json"))
        return self.trial(trial.number)

    @_with_database
    def begin_refit(self, of: int, config: TrialConfig, combines: Sequence[int] = ()) -> TrialRecord:
        """A trial that the sampler has not asked for and does not learn from.

        Args:
            of: Number of the trial that was chosen.
            config: Its own, with another seed.
            combines: Numbers of refits, if it is made of these instead of trained.
        """
        trial_id = self._storage.create_new_trial(self._study_id)
        self._storage.set_trial_user_attr(trial_id, "refit_of", of)
        self._storage.set_trial_user_attr(trial_id, "combines", list(combines))
        self._storage.set_trial_user_attr(trial_id, "config", config.model_dump(mode="json"))  # last: now it has begun
        return self._record(self._storage.get_trial(trial_id))

    @_with_database
    def add_epoch(self, number: int, record: EpochRecord, num_workers: int) -> None:
        """Remember an epoch; one that is known already changes nothing.

        Args:
            number: Of the trial.
            num_workers: How many workers trained it, for the cost.
        """
        trial_id = self._trial_id(number)
        known = self._storage.get_trial(trial_id)
        if _epoch_key(record.epoch) in known.user_attrs or known.state.is_finished():
            return
        self._storage.set_trial_intermediate_value(trial_id, record.epoch, record.objective)
        self._storage.set_trial_user_attr(trial_id, "num_workers", num_workers)
        self._storage.set_trial_user_attr(trial_id, _epoch_key(record.epoch), record.model_dump(mode="json"))

    @_with_database
    def finish(
        self, number: int, state: TrialState, error: str | None = None, failure: FailureKind | None = None
    ) -> None:
        """Give a trial its final state; a trial that has one keeps it.

        The value of a complete or pruned trial is its last objective. A trial that ended before its first epoch
        failed; one that ran out of memory is infeasible. What speaks of the configuration the sampler learns as a
        violated constraint. Of a refit it learns nothing: for Optuna it failed, whatever its state is.
        """
        record = self.trial(number)
        if record.state is not TrialState.RUNNING:
            return
        if record.last is None and state in (TrialState.COMPLETE, TrialState.PRUNED):
            state, error = TrialState.FAILED, error or "it ended before its first epoch."
        trial_id = self._trial_id(number)
        if error:
            self._storage.set_trial_user_attr(trial_id, "error", error)
        if failure is not None:
            self._storage.set_trial_user_attr(trial_id, "failure", failure.value)
        teaches = state is TrialState.INFEASIBLE or (failure is not None and failure.speaks_of_configuration)
        if teaches and record.refit_of is None:
            constraint = "memory" if failure is None or failure.is_of_memory else failure.value
            self._storage.set_trial_system_attr(trial_id, f"constraints:{constraint}", 1.0)
        self._storage.set_trial_user_attr(trial_id, "state", state.value)
        if record.refit_of is not None:
            self._study.tell(number, state=OptunaState.FAIL)
            return
        value = record.last.objective if record.last and state is TrialState.COMPLETE else None
        self._study.tell(number, value, OptunaState.PRUNED if teaches else _OPTUNA_STATES[state])

    def trial(self, number: int) -> TrialRecord:
        """One trial.

        Raises:
            UnknownName: If there is none of that number.
        """
        try:
            with using_database(self.folder / DATABASE):
                stored = self._storage.get_trial(self._trial_id(number))
        except KeyError:
            numbers = f"it has {len(self.trials())} trials"
            raise UnknownName(f"trial={number} is not in study {self.spec.name!r}; {numbers}.") from None
        return self._record(stored)

    def seconds(self) -> float:
        """From the study's creation to the last change of a trial."""
        created = datetime.fromisoformat(self.spec.created_at).timestamp()
        return max(0.0, (self.folder / DATABASE).stat().st_mtime - created)

    def write_json(self, name: str, content: object) -> None:
        """Replace a small file of the study in one step."""
        write_atomically(self.folder / name, lambda file: file.write(json.dumps(content, indent=2).encode()))

    def read_json(self, name: str) -> dict[str, object] | None:
        """What `write_json` wrote; `None` if nothing.

        Raises:
            BrokenStudy: If it is not that any more.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise unreadable(path, str(error)) from error
        if not isinstance(content, dict):
            raise unreadable(path, "it holds no mapping")
        return content

    @staticmethod
    def _write_spec(folder: Path, spec: StudySpec) -> None:
        write_atomically(folder / SPEC_FILE, lambda file: file.write(spec.model_dump_json(indent=2).encode()))

    def _stored(self) -> list[FrozenTrial]:
        with reading(self.folder), using_database(self.folder / DATABASE):
            return self._study.get_trials(deepcopy=False)

    def _is_waiting(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=[OptunaState.WAITING]))

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        with reading(self.folder):
            return self._parsed(trial)

    @staticmethod
    def _parsed(trial: FrozenTrial) -> TrialRecord:
        attributes = trial.user_attrs
        keys = sorted(key for key in attributes if key.startswith("epoch_"))
        epochs = [EpochRecord.model_validate(attributes[key]) for key in keys]
        state = TrialState(attributes["state"]) if trial.state.is_finished() else TrialState.RUNNING
        return TrialRecord(
            number=trial.number,
            state=state,
            config=TrialConfig.model_validate(attributes["config"]),
            epochs=epochs,
            checkpoint=f"checkpoints/{trial.number:04d}.pt" if epochs and state is not TrialState.PRUNED else None,
            cost_s=sum(epoch.seconds for epoch in epochs) * attributes.get("num_workers", 1),
            error=attributes.get("error"),
            failure=FailureKind(attributes["failure"]) if "failure" in attributes else None,
            is_prepared="first" in attributes,
            is_baseline=attributes.get("first") == 0,
            is_advised="advised" in attributes,
            refit_of=attributes.get("refit_of"),
            combines=tuple(attributes.get("combines", ())),
        )


def check_name(what: str, name: str) -> None:
    """Raise `InvalidInput` unless `name` can be a file name everywhere."""
    if not NAME_RULE.fullmatch(name):
        raise InvalidInput(
            f"{what}={name!r} must start with a letter or digit and hold at most 64 of A-Z a-z 0-9 . _ -; rename it."
        )


def find_study(root: Path, name: str) -> Path:
    """Folder of a study.

    Raises:
        UnknownName: If there is none; the message lists those that there are.
    """
    check_name("study", name)
    if not (root / name / SPEC_FILE).is_file():
        raise UnknownName(f"study={name!r} is not in {root}{did_you_mean(name, list_studies(root))}")
    return root / name


def list_studies(root: Path) -> list[str]:
    """Names of all studies, the newest first."""
    specs: Sequence[Path] = sorted(root.glob(f"*/{SPEC_FILE}"), key=_changed_at, reverse=True)
    return [spec.parent.name for spec in specs]


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a link to nowhere, or a study that was removed just now
        return 0.0


def _read_spec(folder: Path) -> StudySpec:
    if not (folder / SPEC_FILE).is_file():
        raise UnknownName(f"{folder} holds no study; its {SPEC_FILE} is missing.")
    path, content = folder / SPEC_FILE, (folder / SPEC_FILE).read_bytes()
    if (found := _format_of(content)) not in (None, FORMAT):
        rule = f"is of another version of ray_tl, this one reads {FORMAT}"
        raise BrokenStudy(f"{path}: format={found!r} {rule}; open it with the version that wrote it.")
    try:
        return StudySpec.model_validate_json(content)
    except ValidationError as error:
        raise broken_study(folder, str(all_at_once(str(path), explain(error, StudySpec)))) from error


def _format_of(content: bytes) -> object:
    try:
        spec = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return spec.get("format") if isinstance(spec, dict) else None


def _sampler(spec: StudySpec, num_trials: int) -> optuna.samplers.BaseSampler:
    """TPE for conditional spaces; a resumed search must not draw the numbers of its beginning again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # no news to a person: `group`
        return optuna.samplers.TPESampler(
            seed=(spec.search.seed + 1_000_003 * num_trials) % 2**32,
            n_startup_trials=max(5, spec.search.num_trials // 3),
            multivariate=True,
            group=True,
            constant_liar=True,
        )


def _locked(file: TextIO, kind: int) -> bool:
    """Whether the lock was got; it is freed when the file is closed."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _storage(folder: Path, mode: str) -> optuna.storages.RDBStorage:
    """The database of a study, in a mode of SQLite: `rwc` makes it, `rw` does not, `ro` leaves it as it is."""
    address = f"{(folder / DATABASE).absolute().as_uri()}?mode={mode}"
    connect = partial(sqlite3.connect, address, uri=True, timeout=LOCK_TIMEOUT_S, check_same_thread=False)
    arguments = {"creator": connect}
    return optuna.storages.RDBStorage(f"sqlite:///{DATABASE}", arguments, skip_table_creation=mode != "rwc")


def _remaining(count: int, key: str, begun: Sequence[Mapping[str, object]]) -> list[int]:
    """Which of the prepared things have not begun yet."""
    taken = {attributes.get(key) for attributes in begun}
    return [index for index in range(count) if index not in taken]


def _epoch_key(epoch: int) -> str:
    return f"epoch_{epoch:04d}"
