"""The verbs of the command line as functions. Heavy imports happen inside a verb: a study is read in a second."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ray_tl.config import TrialConfig
from ray_tl.data.summary import BALANCE_FIELD, DataSummary
from ray_tl.errors import InvalidInput, RayTLError, all_at_once, storage_failure
from ray_tl.files import require_writable
from ray_tl.home import models_folder, storage_address, studies_folder
from ray_tl.observability.examination import Examination, examined
from ray_tl.observability.findings import FINDINGS, finding_lines
from ray_tl.on_ray.cluster_file import ClusterConfig, load_cluster
from ray_tl.registry import did_you_mean
from ray_tl.search_space import DataOptions, Middle, SearchFile, load_search_file, validated
from ray_tl.strict_json import parse_json
from ray_tl.study.correction import recorded_correction
from ray_tl.study.records import DataSource, StudySpec, TrialRecord, TrialState
from ray_tl.study.store import CHAMPION_FILE, StudyStore
from ray_tl.study.studies import Studies, find_study, studies_at

if TYPE_CHECKING:
    from ray_tl.on_ray.search import SearchResult
    from ray_tl.planning import Plan
    from ray_tl.promotion.predict import FilePrediction
    from ray_tl.promotion.promote import PromotedVersion
    from ray_tl.rescoring import Rescoring
    from ray_tl.scoring import Evaluation, LedgerRow
    from ray_tl.training.layer_plan import LayerPlan

Home = Path | str | None
UNCORRECTED_TRIAL = (
    "a trial by number is packaged as it was; without --trial the champion's predictions are corrected to the class "
    "shares of the target."
)
SAMPLES = {"digits": (170, 30), "sentiment": (5000, 1000)}
"""Examples of each class that there are, and that are usual."""


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


@dataclass(frozen=True)
class DataCheck:
    """What a search would read, and what it would be refused for.

    Attributes:
        data: Domains, classes, what is left out, and copies.
        problems: Each of which ends a search before it begins.
        is_balanced: Whether the search space says what to do about unequal classes.
    """

    data: DataSummary
    problems: list[str]
    is_balanced: bool = False

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        lines = self.data.lines(self.is_balanced)
        return {**self.data.model_dump(mode="json"), "lines": lines, "problems": self.problems}


def search(
    space: Path | str | SearchFile,
    source: str,
    target: str,
    target_test: str | None = None,
    name: str | None = None,
    settings: Mapping[str, object] | None = None,
    cluster: ClusterConfig | None = None,
    home: Home = None,
    watch: Callable[[TrialRecord], None] = lambda trial: None,
    target_labelled: str | None = None,
    intermediate: Sequence[str] = (),
    auxiliary: str | None = None,
    storage: str | None = None,
) -> "SearchResult":
    """Search for the best way to adapt a backbone to an unlabelled target.

    Args:
        space: Search-space file, or its parsed content.
        source: Folder of class folders of images, or `digits:mnist`.
        target: Folder of images, or `digits:optdigits`; names of class folders are ignored.
        target_test: Folder of images that no trial trains on; predictions on them are recorded.
        name: Of the study; from space and time by default.
        settings: Values for fields of the file's sections `search` and `data`; `None` values count as not given.
        cluster: Where to run; a local Ray by default.
        home: Folder of studies and models.
        watch: Called with a trial whenever it has changed.
        target_labelled: Folder of class folders with a few target examples, whose labels trials may train on, or by
            which the champion is chosen: see `data.target_labels_for`.
        intermediate: Folders of domains between source and target, in order, for `transfer: staged`.
        auxiliary: Folder of class folders of another task, for `multi_task: auxiliary`.
        storage: Address of a PostgreSQL database that keeps the study, `postgresql://user@host/database`; by default
            `$RAY_TL_STORAGE`, else the study is kept in its folder. Checkpoints and evidence are in the folder anyway.

    Raises:
        InvalidInput: Before anything runs or is written, for anything wrong with the arguments, files or data.
        NoResources: If the cluster has no room for one trial.
    """
    from ray_tl.on_ray.search import run_search

    where, further = cluster or ClusterConfig(), (target_labelled, intermediate, auxiliary)
    plan = plan_search(
        space, source, target, target_test, name, settings, home, *further, cluster=where, storage=storage
    )
    return run_search(plan, where, watch)


def resume(
    study: str,
    settings: Mapping[str, object] | None = None,
    cluster: ClusterConfig | None = None,
    home: Home = None,
    watch: Callable[[TrialRecord], None] = lambda trial: None,
    storage: str | None = None,
) -> "SearchResult":
    """Go on with a study where it was; nothing is lost and nothing runs twice."""
    from ray_tl.on_ray.search import run_search

    return run_search(plan_resumption(study, settings, home, storage), cluster or ClusterConfig(), watch)


def plan_search(
    space: Path | str | SearchFile,
    source: str,
    target: str,
    target_test: str | None = None,
    name: str | None = None,
    settings: Mapping[str, object] | None = None,
    home: Home = None,
    target_labelled: str | None = None,
    intermediate: Sequence[str] = (),
    auxiliary: str | None = None,
    cluster: ClusterConfig | None = None,
    storage: str | None = None,
) -> "Plan":
    """Check everything and create the study, without running it; arguments as for `search`.

    Whether the memory suffices is checked for a Ray that is to be started here, if `cluster` is given.
    """
    require_writable(studies_folder(home))
    studies = _studies(home, storage)
    studies.names()  # a database that can't be reached is noticed before the data are read

    from ray_tl.on_ray.search import room_of
    from ray_tl.planning import plan_search

    file = space if isinstance(space, SearchFile) else load_search_file(space)
    file = _with_settings(file, settings or {})
    stem = "search" if isinstance(space, SearchFile) else Path(space).stem
    name = name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = {"source": source, "target": target, "target_test": target_test, "target_labelled": target_labelled}
    further = {"intermediate": tuple(intermediate), "auxiliary": auxiliary}
    data = DataSource.model_validate({**names, **further, "options": file.data})
    room = None if cluster is None else room_of(cluster)
    return plan_search(file, data, name, studies, room=room)


def check_data(
    space: Path | str | SearchFile,
    source: str,
    target: str,
    target_test: str | None = None,
    settings: Mapping[str, object] | None = None,
    target_labelled: str | None = None,
    intermediate: Sequence[str] = (),
    auxiliary: str | None = None,
) -> DataCheck:
    """Read and compare the domains of a search without searching; arguments as for `search`.

    Raises:
        InvalidInput: If the search-space file is not sound, or a tokenizer can't be loaded.
    """
    from ray_tl.data.load import check_data
    from ray_tl.data.places import Places

    file = space if isinstance(space, SearchFile) else load_search_file(space)
    file = _with_settings(file, settings or {})
    places = Places(source, target, target_test, target_labelled, tuple(intermediate), auxiliary)
    data, problems = check_data(places, file.data, file.search.seed)
    return DataCheck(data, problems, BALANCE_FIELD in file.trial)


def plan_resumption(
    study: str, settings: Mapping[str, object] | None = None, home: Home = None, storage: str | None = None
) -> "Plan":
    """Open a study to go on with it; of its settings only the number of trials and the time may change."""
    from ray_tl.planning import plan_resumption

    return plan_resumption(study, _studies(home, storage), _given(settings or {}))


def studies(home: Home = None, storage: str | None = None) -> list[dict[str, object]]:
    """All studies, the newest first: name, number of trials, state, champion, creation time.

    One that can't be read has the state `broken`, and says why in `error`; the others are listed all the same.
    """
    found = _studies(home, storage)
    return [_row_of(name, found) for name in found.names()]


def status(study: str, home: Home = None, trial: int | None = None, storage: str | None = None) -> StudyStatus:
    """How a study stands, with the examination of its champion, or of a trial.

    Raises:
        UnknownName: If there is no such study or trial.
    """
    store = _opened(study, home, storage)
    found = _status(store)
    number = found.champion if trial is None else trial
    if number is None:
        return found
    return replace(found, examination=examined(store.trial(number), store.spec.classes))


def watch(study: str, interval_s: float = 2.0, home: Home = None, storage: str | None = None) -> Iterator[StudyStatus]:
    """Its status whenever it has changed, until no process searches it."""
    store = _opened(study, home, storage)
    seen = None
    while True:
        now = _status(store)
        if now.summary() != seen:
            seen = now.summary()
            yield now
        if not now.is_running:
            return
        time.sleep(interval_s)


def evaluate(
    study: str,
    labels: str,
    trial: int | None = None,
    on: str | None = None,
    home: Home = None,
    storage: str | None = None,
) -> "Evaluation":
    """Score a finished search on true classes of its target, and put its champion's score into the ledger.

    Args:
        study: Which; nothing that searches or promotes reads these labels or the ledger.
        labels: Folder of class folders, a table, or `digits:optdigits`; labels of some of the examples are enough.
        trial: Another trial than the champion.
        on: `target` or `target_test`; by default, whichever the labels belong to.
        home: Folder of studies and models.
        storage: As for `search`.

    Raises:
        UnknownName: If there is no such study or trial.
        InvalidInput: If the labels don't fit the study, its data have changed, or it has no champion yet.
        StudyBusy: If it is being searched.
    """
    from ray_tl.scoring import evaluate

    return evaluate(_opened(study, home, storage), labels, trial, on)


def rescore(
    study: str,
    validators: Sequence[str] = (),
    selection: str | None = None,
    home: Home = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    storage: str | None = None,
) -> "Rescoring":
    """Score the trials of a study by any validators, from what they left; nothing of it is changed, and nothing runs.

    Args:
        study: Which; its folder may be read-only, and its data may be gone.
        validators: Names; by default all that the evidence allows.
        selection: Another rule of choice, as in a search-space file: `validators: {names: [ensv]}`.
        home: Folder of studies and models.
        progress: Called after each trial with how many are scored, and of how many.
        storage: As for `search`.

    Raises:
        UnknownName: If there is no such study, validator or rule.
        InvalidInput: If the rule is not sound for this study, or no trial has reached full fidelity.
    """
    from ray_tl.rescoring import rescore

    store = _opened(study, home, storage)
    return rescore(store, validators, selection, progress)


def ledger(home: Home = None, storage: str | None = None) -> "list[LedgerRow]":
    """How good the choices of past searches turned out to be: one row for each study that was scored."""
    from ray_tl.scoring import read_ledger

    return read_ledger(_studies(home, storage))


def promote(
    study: str, name: str | None = None, trial: int | None = None, home: Home = None, storage: str | None = None
) -> "PromotedVersion":
    """Package the champion of a study, or another finished trial, as a new version of a model.

    The champion is packaged as it was found best, with the correction of its predictions, a trial by number as it was.

    Raises:
        UnknownName: If there is no such study or trial.
        InvalidInput: If the study has no champion yet, or the trial did not finish.
    """
    from ray_tl.promotion.promote import promote_trial

    store = _opened(study, home, storage)
    number = _champion(store)[0] if trial is None else trial
    if number is None:
        raise InvalidInput(f"study={study!r} has no champion yet; finish it with: ray-tl search --resume {study}")
    created_at = datetime.now().astimezone().isoformat(timespec="seconds")
    correction = recorded_correction(store, number)
    given = correction if trial is None else None
    version = promote_trial(store, store.trial(number), name or study, models_folder(home), created_at, given)
    return version if correction is None or trial is None else replace(version, notes=(UNCORRECTED_TRIAL,))


def predict(
    model: str,
    files: Sequence[Path | str] = (),
    home: Home = None,
    texts: Sequence[str] = (),
    text_column: str = "text",
    on_broken: Literal["stop", "skip"] = "stop",
) -> "list[FilePrediction]":
    """Classify images or texts with a promoted model: `NAME` (newest version), `NAME@v2`, or a version's folder.

    Args:
        model: Which.
        files: Images and folders of images; or tables and `.txt` files, for a model of texts.
        home: Folder of studies and models.
        texts: For a model of texts.
        text_column: Of tables.
        on_broken: Examples that can't be read: name them in one error, or leave them out and log them.

    Raises:
        InvalidInput: If there is nothing to classify, or it is not what the model reads.
    """
    from ray_tl.promotion.predict import predict

    if not files and not texts:
        raise InvalidInput("there is nothing to classify; give files, or --text.")
    return predict(model, [Path(file) for file in files], models_folder(home), texts, text_column, on_broken)


def serve(
    model: str,
    port: int = 8000,
    replicas: int = 1,
    address: str | None = None,
    home: Home = None,
    ready: Callable[[str, str], None] = lambda url, version: None,
) -> None:
    """Serve a promoted model over HTTP until SIGINT or SIGTERM.

    Args:
        model: `NAME` (newest version), `NAME@v2`, or a version's folder.
        port: On 127.0.0.1.
        replicas: Copies of the model.
        address: Of a Ray cluster that is up; a local Ray by default.
        home: Folder of studies and models.
        ready: Called with address and version once requests are answered.
    """
    from ray_tl.on_ray.serve_app import serve_forever
    from ray_tl.on_ray.session import ray_session
    from ray_tl.promotion.bundle import load_bundle
    from ray_tl.promotion.versions import resolve

    folder = resolve(model, models_folder(home))
    name = load_bundle(folder).lineage.study if "/" in model else model.partition("@")[0]
    with ray_session(ClusterConfig(address=address)):
        serve_forever(folder, name, port, lambda served: ready(served.url, served.version), num_replicas=replicas)


def sample_data(
    folder: Path, kind: str = "digits", per_class: int | None = None, archive: Path | None = None
) -> list[Path]:
    """Write small data to try a search on.

    Args:
        folder: Gets them.
        kind: `digits` for two folders of images, `sentiment` for tables of sentences.
        per_class: Of each class in each domain; 30 images, or 1000 sentences, by default.
        archive: Of `sentiment`, fetched before.

    Returns:
        What was written, the source first.

    Raises:
        InvalidInput: If there is no such kind, some of it exists, there are not so many, or it can't be fetched.
    """
    if kind not in SAMPLES:
        raise InvalidInput(f"kind={kind!r} is not known{did_you_mean(kind, list(SAMPLES))}")
    most, usual = SAMPLES[kind]
    if per_class is not None and per_class > most:
        raise InvalidInput(f"per_class={per_class} is more than there are; choose {most} or less.")
    if kind == "sentiment":
        from ray_tl.data.sentiment import write_sample_tables

        return write_sample_tables(folder, per_class or usual, archive)
    from ray_tl.data.samples import write_sample_folders

    return list(write_sample_folders(folder, per_class or usual))


def components(field: str | None = None) -> list[dict[str, object]]:
    """Everything that a search-space file may name: field, kind, name, summary, parameters.

    Raises:
        InvalidInput: If there is no such field.
    """
    from ray_tl.components import describe

    rows = describe()
    fields = list(dict.fromkeys(str(row["field"]) for row in rows))
    if field is not None and field not in fields:
        raise InvalidInput(f"field={field!r} is not known{did_you_mean(field, fields)}")
    return [row for row in rows if field in (None, row["field"])]


def plan(
    config: Path | None = None,
    study: str | None = None,
    trial: int | None = None,
    num_classes: int = 10,
    home: Home = None,
    storage: str | None = None,
) -> "LayerPlan":
    """Which layer of a trial trains, how fast, and from when on; nothing runs and no weights are read.

    Args:
        config: A search-space file, for the middle of its ranges and the first of its choices; or a trial as JSON.
        study: Instead of `config`, with `trial`.
        trial: Number in the study.
        num_classes: For the size of the head, where `config` is given.
        home: Folder of studies and models.
        storage: As for `search`.

    Raises:
        InvalidInput: If it is not one of the two, or a configuration is not sound.
        UnknownName: If there is no such study or trial.
    """
    from ray_tl.models.backbones import WrongModality
    from ray_tl.models.backbones.user import register_user_backbones
    from ray_tl.training.layer_plan import plan_of

    if (config is None) == (study is None) or (study is None) != (trial is None):
        raise InvalidInput("a plan is of CONFIG, or of --study NAME with --trial N; give one of the two.")
    if study is not None and trial is not None:
        store = _opened(study, home, storage)
        spec = store.spec
        register_user_backbones(spec.backbones)
        return plan_of(store.trial(trial).config, len(spec.classes), spec.data.options)
    assert config is not None
    if config.suffix == ".json":
        trial_config = _trial_config(config)
        try:
            return plan_of(trial_config, num_classes, DataOptions())
        except WrongModality as error:
            return plan_of(trial_config, num_classes, DataOptions.model_validate({"modality": error.reads}))
    file = load_search_file(config)
    register_user_backbones(file.backbones)
    return plan_of(_middle(file), num_classes, file.data)


def cluster_config(file: Path | None, stated: Mapping[str, object]) -> ClusterConfig:
    """A cluster file, with what was stated beside it."""
    config = load_cluster(file) if file is not None else ClusterConfig()
    return validated(ClusterConfig, {**config.model_dump(), **_given(stated)}, "cluster")


def _trial_config(path: Path) -> TrialConfig:
    if not path.is_file():
        raise InvalidInput(f"trial {str(path)!r} is not a file; give the path of a JSON file with a trial's fields.")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise InvalidInput(f"{path}: not valid JSON: {error}") from error
    return validated(TrialConfig, content, str(path))


def _middle(file: SearchFile) -> TrialConfig:
    """The middle of every range and the first of every choice."""
    from ray_tl.components import catalogue

    space = file.space()
    if found := space.problems(catalogue()):
        raise all_at_once("search space", found)
    return space.resolved(catalogue()).sample(Middle())


def _with_settings(file: SearchFile, settings: Mapping[str, object]) -> SearchFile:
    content = file.model_dump()
    for key, value in _given(settings).items():
        section = next((name for name in ("search", "data") if key in content[name]), None)
        if section is None:
            choices = [*content["search"], *content["data"]]
            raise InvalidInput(f"setting {key!r} is not known{did_you_mean(key, choices)}")
        content[section][key] = value
    return validated(SearchFile, content, "settings")


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _status(store: StudyStore) -> StudyStatus:
    number, reason, merits, refit = _champion(store)
    return StudyStatus(
        spec=store.spec,
        folder=store.folder,
        trials=store.trials(),
        champion=number,
        reason=reason,
        merits=merits,
        refit=refit,
        is_running=store.is_searched(),
        seconds=store.seconds(),
        findings=_findings(store),
    )


def _champion(store: StudyStore) -> tuple[int | None, str, dict[int, float], dict[str, object] | None]:
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


def _studies(home: Home, storage: str | None) -> Studies:
    return studies_at(studies_folder(home), storage_address(storage))


def _opened(study: str, home: Home, storage: str | None) -> StudyStore:
    return StudyStore.open_for_reading(find_study(_studies(home, storage), study))


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
