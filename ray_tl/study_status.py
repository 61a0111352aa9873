"""How studies stand, read without torch while they run or when they have ended."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ray_tl.errors import RayTLError, storage_failure
from ray_tl.home import storage_address, studies_folder
from ray_tl.observability.examination import Examination, examined
from ray_tl.observability.findings import FINDINGS, finding_lines
from ray_tl.study.records import StudySpec, TrialRecord, TrialState
from ray_tl.study.store import CHAMPION_FILE, StudyStore
from ray_tl.study.studies import Studies, find_study, studies_at

Home = Path | str | None


@dataclass(frozen=True)
class StudyStatus:
    """How a study stands at one moment.

    Attributes:
        champion: Number of the champion; `None` until the search has ended.
        reason: Why it is the champion.
        refit: What became of the champion when it was trained again, as `champion.json` has it; `None` if it was not.
        merits: By which it was chosen, by number of the trial, the best first; empty until the search has ended.
        findings: What the trials say of the target and of the champion, as `champion.json` has it; see
            `ray_tl.selection.findings`.
        is_running: Whether a process searches it now.
        seconds: From its creation to its last change.
        examination: What the champion did to the domains, or another trial that was asked for; `None` without one.
        command_options: Options that further commands need to find the study.
    """

    spec: StudySpec
    folder: Path
    trials: list[TrialRecord]
    champion: int | None
    reason: str
    merits: dict[int, float]
    is_running: bool
    seconds: float
    findings: Mapping[str, object] = field(default_factory=dict)
    examination: Examination | None = None
    refit: dict[str, object] | None = None
    command_options: str = ""

    @property
    def num_trials(self) -> int:
        """Trials of the search, without refits."""
        return sum(trial.refit_of is None for trial in self.trials)

    @property
    def is_interrupted(self) -> bool:
        """Whether there is something to go on with, a refit for example, and no process does."""
        is_unfinished = self.champion is None or any(trial.state is TrialState.RUNNING for trial in self.trials)
        return is_unfinished and not self.is_running

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        return {
            "study": self.spec.name,
            "folder": str(self.folder),
            "is_running": self.is_running,
            "champion": self.champion,
            "reason": self.reason,
            "refit": self.refit,
            "merits": self.merits,
            **self.findings,
            "data": self.spec.data_summary.model_dump(mode="json"),
            "advice": [item.model_dump(mode="json") for item in self.spec.advice],
            "examination": self.examination and self.examination.summary(),
            "states": dict(Counter(str(trial.state) for trial in self.trials)),
            "trials": [_plain(trial) for trial in self.trials],
        }


def studies(home: Home = None, storage: str | None = None) -> list[dict[str, object]]:
    """All studies, the newest first: name, number of trials, state, champion, creation time.

    One that can't be read has the state `broken`, and says why in `error`; the others are listed all the same.
    """
    found = studies_of(home, storage)
    return [_row_of(name, found) for name in found.names()]


def study_names(home: Home = None, storage: str | None = None) -> list[str]:
    """Names of all studies, the newest first."""
    return studies_of(home, storage).names()


def status(study: str, home: Home = None, trial: int | None = None, storage: str | None = None) -> StudyStatus:
    """How a study stands, with the examination of its champion, or of a trial.

    Raises:
        UnknownName: If there is no such study or trial.
    """
    store = opened(study, home, storage)
    found = _status(store)
    number = found.champion if trial is None else trial
    if number is None:
        return found
    return replace(found, examination=examined(store.trial(number), store.spec.classes))


def watch(study: str, interval_s: float = 2.0, home: Home = None, storage: str | None = None) -> Iterator[StudyStatus]:
    """Its status whenever it has changed, until no process searches it."""
    store = opened(study, home, storage)
    seen = None
    while True:
        now = _status(store)
        if now.summary() != seen:
            seen = now.summary()
            yield now
        if not now.is_running:
            return
        time.sleep(interval_s)


def champion_of(store: StudyStore) -> int | None:
    """Number of the champion; `None` until the search has ended."""
    return _recorded(store)[0]


def studies_of(home: Home = None, storage: str | None = None) -> Studies:
    """Where studies are: below a folder, or in a database."""
    return studies_at(studies_folder(home), storage_address(storage))


def opened(study: str, home: Home = None, storage: str | None = None) -> StudyStore:
    """A study to look at."""
    return StudyStore.open_for_reading(find_study(studies_of(home, storage), study))


def _status(store: StudyStore) -> StudyStatus:
    number, reason, merits, refit = _recorded(store)
    return StudyStatus(
        spec=store.spec,
        folder=store.folder,
        command_options=store.backend.command_options,
        trials=store.trials(),
        champion=number,
        reason=reason,
        merits=merits,
        refit=refit,
        is_running=store.is_searched(),
        seconds=store.seconds(),
        findings=_findings(store),
    )


def _recorded(store: StudyStore) -> tuple[int | None, str, dict[int, float], dict[str, object] | None]:
    content: Any = store.read_json(CHAMPION_FILE)
    if content is None:
        return None, "", {}, None
    try:
        merits = {item["trial"]: item["merit"] for item in content["candidates"] if item["rejected"] is None}
        return content["trial"], content["reason"], merits, content.get("refit")
    except (KeyError, TypeError) as error:
        raise store.unreadable(CHAMPION_FILE, f"{type(error).__name__}: {error}") from error


def _findings(store: StudyStore) -> dict[str, object]:
    content: Any = store.read_json(CHAMPION_FILE) or {}
    try:
        finding_lines(content)
        return {name: content[name] for name in FINDINGS if name in content}
    except (KeyError, TypeError) as error:
        raise store.unreadable(CHAMPION_FILE, f"{type(error).__name__}: {error}") from error


def _row_of(name: str, studies: Studies) -> dict[str, object]:
    try:
        return _study_row(_status(StudyStore.open_for_reading(find_study(studies, name))))
    except (RayTLError, OSError) as error:
        failure = storage_failure(error) if isinstance(error, OSError) else error
        unknown = dict.fromkeys(("trials", "state", "champion", "created"))
        return {"study": name, **unknown, "state": "broken", "error": " ".join(str(failure).split())}


def _study_row(item: StudyStatus) -> dict[str, object]:
    state = "running" if item.is_running else "interrupted" if item.is_interrupted else "finished"
    return {
        "study": item.spec.name,
        "trials": item.num_trials,
        "state": state,
        "champion": item.champion,
        "created": item.spec.created_at,
    }


def _plain(trial: TrialRecord) -> dict[str, object]:
    return {
        "trial": trial.number,
        "state": str(trial.state),
        "epochs": [epoch.model_dump(mode="json") for epoch in trial.epochs],
        "objective": trial.last.objective if trial.last else None,
        "config": trial.config.model_dump(mode="json"),
        "checkpoint": trial.checkpoint,
        "cost_s": trial.cost_s,
        "is_baseline": trial.is_baseline,
        "refit_of": trial.refit_of,
        "combines": list(trial.combines),
        "error": trial.error,
    }
