"""The verbs of the command line as functions. Heavy imports happen inside a verb: a study is read in a second."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ray_tl.data.summary import BALANCE_FIELD, DataSummary
from ray_tl.errors import InvalidInput
from ray_tl.files import require_writable
from ray_tl.home import models_folder, studies_folder
from ray_tl.on_ray.cluster_file import ClusterConfig, load_cluster
from ray_tl.registry import did_you_mean
from ray_tl.search_space import SearchFile, load_search_file, validated
from ray_tl.study.artifacts import usable_address
from ray_tl.study.correction import recorded_correction
from ray_tl.study.records import DataSource, TrialRecord
from ray_tl.study_status import Home, StudyStatus, champion_of, opened, status, studies, studies_of, study_names, watch

if TYPE_CHECKING:
    from ray_tl.on_ray.search import SearchResult
    from ray_tl.planning import Plan
    from ray_tl.promotion.predict import FilePrediction
    from ray_tl.promotion.promote import PromotedVersion
    from ray_tl.rescoring import Rescoring
    from ray_tl.scoring import Evaluation, LedgerRow
    from ray_tl.training.layer_plan import LayerPlan

__all__ = [
    "DataCheck",
    "StudyStatus",
    "check_data",
    "cluster_config",
    "components",
    "evaluate",
    "ledger",
    "plan",
    "plan_resumption",
    "plan_search",
    "predict",
    "promote",
    "rescore",
    "resume",
    "sample_data",
    "search",
    "serve",
    "status",
    "studies",
    "study_names",
    "watch",
]

UNCORRECTED_TRIAL = (
    "a trial by number is packaged as it was; without --trial the champion's predictions are corrected to the class "
    "shares of the target."
)
SAMPLES = {"digits": (170, 30), "sentiment": (5000, 1000)}
"""Examples of each class that there are, and that are usual."""


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
    artifacts: str | None = None,
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
            `$RAY_TL_STORAGE`, else the study is kept in its folder.
        artifacts: Where all nodes of a cluster can write checkpoints and evidence: an address that `pyarrow.fs` knows,
            such as `s3://bucket/ray_tl`, which the study remembers. By default it is the study's folder, which all
            nodes must share then.

    Raises:
        InvalidInput: Before anything runs or is written, for anything wrong with the arguments, files or data.
        NoResources: If the cluster has no room for one trial.
    """
    from ray_tl.on_ray.search import run_search

    where, further = cluster or ClusterConfig(), (target_labelled, intermediate, auxiliary)
    stated = space, source, target, target_test, name, settings, home, *further
    plan = plan_search(*stated, cluster=where, storage=storage, artifacts=artifacts)
    return run_search(plan, where, watch)


def resume(
    study: str,
    settings: Mapping[str, object] | None = None,
    cluster: ClusterConfig | None = None,
    home: Home = None,
    watch: Callable[[TrialRecord], None] = lambda trial: None,
    storage: str | None = None,
    artifacts: str | None = None,
) -> "SearchResult":
    """Go on with a study where it was; nothing is lost and nothing runs twice. Arguments as for `search`."""
    from ray_tl.on_ray.search import run_search

    plan = plan_resumption(study, settings, home, storage, artifacts)
    return run_search(plan, cluster or ClusterConfig(), watch)


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
    artifacts: str | None = None,
) -> "Plan":
    """Check everything and create the study, without running it; arguments as for `search`.

    Whether the memory suffices is checked for a Ray that is to be started here, if `cluster` is given.
    """
    require_writable(studies_folder(home))
    studies = studies_of(home, storage)
    studies.names()  # a database that can't be reached is noticed before the data are read
    place = None if artifacts is None else usable_address(artifacts)

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
    return plan_search(file, data, name, studies, room=room, artifacts=place)


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
    study: str,
    settings: Mapping[str, object] | None = None,
    home: Home = None,
    storage: str | None = None,
    artifacts: str | None = None,
) -> "Plan":
    """Open a study to go on with it; of its settings only the number of trials and the time may change.

    Checkpoints and evidence that are in its folder can be moved to an address, by `artifacts`.
    """
    from ray_tl.planning import plan_resumption

    place = None if artifacts is None else usable_address(artifacts)
    return plan_resumption(study, studies_of(home, storage), _given(settings or {}), place)


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
        trial: A trial as it was, by number; by default the champion as it is promoted.
        on: `target` or `target_test`; by default, whichever the labels belong to.
        home: Folder of studies and models.
        storage: As for `search`.

    Raises:
        UnknownName: If there is no such study or trial.
        InvalidInput: If the labels don't fit the study, its data have changed, or it has no champion yet.
        StudyBusy: If it is being searched.
    """
    from ray_tl.scoring import evaluate

    return evaluate(opened(study, home, storage), labels, trial, on)


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

    store = opened(study, home, storage)
    return rescore(store, validators, selection, progress)


def ledger(home: Home = None, storage: str | None = None) -> "list[LedgerRow]":
    """How good the choices of past searches turned out to be: one row for each study that was scored."""
    from ray_tl.scoring import read_ledger

    return read_ledger(studies_of(home, storage))


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

    store = opened(study, home, storage)
    number = champion_of(store) if trial is None else trial
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
    from ray_tl.planning.layer_plan import plan_of_file, plan_of_trial

    if (config is None) == (study is None) or (study is None) != (trial is None):
        raise InvalidInput("a plan is of CONFIG, or of --study NAME with --trial N; give one of the two.")
    if study is not None and trial is not None:
        return plan_of_trial(opened(study, home, storage), trial)
    assert config is not None
    return plan_of_file(config, num_classes)


def cluster_config(file: Path | None, stated: Mapping[str, object]) -> ClusterConfig:
    """A cluster file, with what was stated beside it."""
    config = load_cluster(file) if file is not None else ClusterConfig()
    return validated(ClusterConfig, {**config.model_dump(), **_given(stated)}, "cluster")


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
