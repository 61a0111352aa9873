"""One search, from files to a champion."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import ray
import torch

from ray_tl.adaptation import METHODS, MethodContext
from ray_tl.adaptation.closed_form import CLOSED_FORM, is_closed_form
from ray_tl.advisor import advise, examine
from ray_tl.components import catalogue
from ray_tl.config import Component, TrialConfig
from ray_tl.data.augmentation import augmentation_for
from ray_tl.data.domains import DomainPair
from ray_tl.data.further_domains import with_further_domains
from ray_tl.data.load import load_pair, preprocessing_of
from ray_tl.errors import InvalidInput, RayTLError, all_at_once
from ray_tl.models.adaptors import AdaptorContext
from ray_tl.models.backbones import BACKBONES, build_backbone, dimensions, knows_words, require_words
from ray_tl.models.backbones.user import register_user_backbones
from ray_tl.models.fine_tuning import LR_MULTIPLIERS
from ray_tl.models.freezing import stages_that_train
from ray_tl.models.parameter_efficient import ALL_WEIGHTS
from ray_tl.models.transfer_model import LAST_STAGE, SHARED_NORM, network_of
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.metrics import MetricsExporter
from ray_tl.on_ray.search_metrics import SearchMetrics
from ray_tl.on_ray.session import ray_session
from ray_tl.on_ray.slots import CLOSING_S, SlotPool, SlotShape
from ray_tl.on_ray.trial_queue import Job, Outcome, SlotTask, start_queue
from ray_tl.on_ray.tune_search import StudySearcher, Watcher, run_trials
from ray_tl.search_space import SearchFile, SearchSpace
from ray_tl.selection.champion import Candidate, Choice, choose
from ray_tl.study.records import Advice, DataSource, StudySpec, TrialRecord
from ray_tl.study.store import CHAMPION_FILE, StudyStore, check_name, find_study
from ray_tl.training.batches import check_accumulation
from ray_tl.training.building import check_mixing
from ray_tl.training.data import TrialData
from ray_tl.training.multi_task import MultiTaskContext
from ray_tl.training.network import blank_rows, context_of, expected_context
from ray_tl.training.regularisers import regulariser_of
from ray_tl.training.transfer import TransferContext
from ray_tl.validation import VALIDATORS

MAX_SLOTS = 64
MAX_ADVICE = 3
MIN_AGREEMENT = 0.99
NETWORK_FIELDS = {
    "backbone",
    "features",
    "adaptor",
    "domain_norm",
    "freeze_depth",
    "trained_stages",
    "parameter_efficient",
}
Say = Callable[[str], None]
Confirmation = dict[str, object]
Data = TypeVar("Data", DataSource, DomainPair)


@dataclass(frozen=True)
class SearchResult:
    """What a search gives.

    Attributes:
        champion: Best finished trial, looked at again at full fidelity.
        choice: All candidates in order of preference.
        seconds: Of this process; a resumed search counts from its resumption.
        slot_restarts: How often each slot came back after its workers had died.
        slots: How many there were at the end; more than at the beginning if the cluster has grown.
    """

    study: str
    folder: Path
    champion: TrialRecord
    choice: Choice
    trials: list[TrialRecord]
    seconds: float
    slot_restarts: dict[int, int]
    slots: int

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        states = Counter(str(trial.state) for trial in self.trials)
        return {
            "study": self.study,
            "folder": str(self.folder),
            "trials": len(self.trials),
            "states": dict(states),
            "seconds": round(self.seconds, 1),
            "slots": self.slots,
            "slot_restarts": sum(self.slot_restarts.values()),
            "champion": self.champion_summary(),
        }

    def champion_summary(self) -> dict[str, object]:
        last = self.champion.last
        assert last is not None
        return {
            "trial": self.champion.number,
            "objective": last.objective,
            "scores": last.scores,
            "config": self.champion.config.model_dump(mode="json"),
            "is_source_only": self.champion.is_baseline,
            "reason": self.choice.reason,
        }


@dataclass(frozen=True)
class Plan:
    """A search that has passed every check and has not begun."""

    store: StudyStore
    pair: DomainPair


def plan_search(
    file: SearchFile, data: DataSource, name: str, root: Path, first: Sequence[TrialConfig] | None = None
) -> Plan:
    """Check everything that can be checked without Ray, and create the study.

    Args:
        file: The search-space file.
        data: Where the domains come from.
        name: Of the new study.
        root: Folder of all studies.
        first: Configurations to run before the sampler is asked, instead of the source-only baseline alone.

    Raises:
        InvalidInput: On the first kind of mistake, with all mistakes of that kind; nothing is written then.
    """
    check_name("study", name)
    if (root / name).exists():
        raise InvalidInput(f"study={name!r} exists already in {root}; resume it with --resume {name}, or rename.")
    register_user_backbones(file.backbones)
    space = file.space()
    unknown = [line for validator in file.search.validators for line in VALIDATORS.key_problems(validator, ())]
    if found := space.problems(catalogue()) + unknown:
        raise all_at_once("search space", found)
    space = space.resolved(catalogue())
    corners = [*_corners(space)]
    zero_shot = tuple(_zero_shot(corners, data))
    configs = [*corners, *zero_shot, *(first or [])]
    check_configurations(configs, data)
    _require_used(configs, data)
    check_weights(configs, data)
    pair = _load(data, file.search.seed)
    check_rows(configs, pair)
    baselines = tuple(first) if first is not None else (*_baselines(space, data), *zero_shot)
    room = file.search.num_trials - len(baselines) if first is None and file.search.advice else 0
    spec = StudySpec(
        name=name,
        data=_anywhere(data),
        search=file.search,
        trees=space.trees,
        backbones=file.backbones,
        first=baselines,
        advice=_advice(space, baselines[0], pair, room // 4) if room > 3 else (),
        data_fingerprint=pair.fingerprint(),
        classes=pair.source.classes,
        source_histogram=tuple(_shares(pair)),
        num_target=len(pair.target),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Plan(StudyStore.create(root / name, spec), pair)


def _require_used(configs: Iterable[TrialConfig], data: DataSource) -> None:
    """Raise `InvalidInput` if domains were given that no trial of the search would look at."""
    configs = list(configs)
    chosen = {"transfer": {config.transfer.name for config in configs}}
    chosen["multi_task"] = {config.multi_task.name for config in configs}
    found = []
    if data.intermediate and "staged" not in chosen["transfer"]:
        found.append(
            "--intermediate is given, but no trial uses it; add transfer: staged to the file, or leave it out."
        )
    if data.auxiliary is not None and "auxiliary" not in chosen["multi_task"]:
        found.append("--auxiliary is given, but no trial uses it; add multi_task: auxiliary, or leave it out.")
    if found:
        raise all_at_once("search space", found)


def _baselines(space: SearchSpace, data: DataSource) -> tuple[TrialConfig, ...]:
    """Source-only, and training on the target labels alone where there are some."""
    source_only = space.baseline()
    if data.target_labelled is None:
        return (source_only,)
    return source_only, source_only.model_copy(update={"method": Component(name="fine_tune")})


def _zero_shot(configs: Iterable[TrialConfig], data: DataSource) -> Iterator[TrialConfig]:
    """A trial without training for each backbone that knows words; none where a mistake is yet to be reported."""
    one_each = {str(config.backbone): config for config in configs}
    for config in one_each.values():
        with suppress(InvalidInput):
            if knows_words(config.backbone, expected_context(data.options)):
                rest = config.model_dump(include={"backbone", "batch_size", "epochs", "seed"})
                yield TrialConfig.model_validate({**rest, "method": "zero_shot"})


def _advice(space: SearchSpace, baseline: TrialConfig, pair: DomainPair, limit: int) -> tuple[Advice, ...]:
    """What to try first; the sampler gets most of a search, and of a short one all."""
    data = TrialData(pair.for_trials(), torch.device("cpu"))
    return advise(space, examine(baseline, data), min(limit, MAX_ADVICE))


def _corners(space: SearchSpace) -> Iterator[TrialConfig]:
    """Every choice and both ends of every range, of fields together that constrain one another."""
    bound = {"backbone", "freeze_depth", "trained_stages", "lr_multipliers", "domain_norm"}
    isolated = {"freeze_depth", "parameter_efficient"}
    pairs = [
        isolated,
        {*isolated, "trained_stages"},
        {"parameter_efficient", "regulariser"},
        {"method", "mixing"},
        {"batch_size", "accumulation"},
    ]
    together = [bound, *(pair for pair in pairs if pair <= space.trees.keys())]
    alone = ({field} for field in space.trees if not any(field in fields for fields in together))
    for fields in (*together, *alone):
        yield from space.extremes({"backbone", *fields, *(tree["by"] for tree in _dependent(space, fields))})


def _dependent(space: SearchSpace, fields: Iterable[str]) -> list[dict[str, str]]:
    trees = [space.trees[field] for field in fields if field in space.trees]
    return [tree for tree in trees if isinstance(tree, dict) and "by" in tree]


def plan_resumption(name: str, root: Path, settings: Mapping[str, object]) -> Plan:
    """Open a study that was begun before.

    Args:
        name: Of the study.
        root: Folder of all studies.
        settings: New values for `num_trials` or `time_budget_s`.

    Raises:
        InvalidInput: If its data have changed since, or a setting can't change.
    """
    store = StudyStore(find_study(root, name))
    register_user_backbones(store.spec.backbones)
    pair = _load(store.spec.data, store.spec.search.seed)
    if pair.fingerprint() != store.spec.data_fingerprint:
        raise InvalidInput(
            f"study={name!r} was begun on other data than {store.spec.data.source!r} and {store.spec.data.target!r} "
            "hold now; restore the folders, or begin a new study."
        )
    store.update_search(**settings)
    return Plan(store, pair)


def run_search(
    plan: Plan,
    cluster: ClusterConfig,
    watch: Watcher = lambda trial: None,
    say: Say = lambda line: None,
    pruning: bool = True,
    dashboard: bool = True,
) -> SearchResult:
    """Run a planned search to its end and choose the champion.

    Args:
        plan: New or resumed.
        cluster: Where to run.
        watch: Called with a trial whenever it has changed.
        say: Called with each line that a person should read.
        pruning: Whether ASHA stops trials early.
        dashboard: Whether a local Ray gets a dashboard.

    Raises:
        NoResources: If the cluster has no room for one trial.
        StudyBusy: If another process searches this study.
        KeyboardInterrupt: On Ctrl-C; the study can be resumed.
    """
    started = time.monotonic()
    store = plan.store
    with (
        store.exclusive(),
        ray_session(cluster, dashboard) as url,
        _slots(plan, cluster, say) as (queue, slots, metrics),
    ):
        say(f"{len(slots)} warm slots of {cluster.workers_per_trial} worker(s); Ray dashboard: {url or 'none'}")
        limit = store.spec.search.time_budget_s
        deadline = None if limit is None else started + limit
        watchers = (metrics.trial_changed, watch)
        searcher = StudySearcher(store, queue, slots, cluster.workers_per_trial, deadline, watchers)
        run_trials(store, searcher, pruning, slots.max_slots + 1, str(store.folder / "ray"))
        if not searcher.has_finished():
            raise KeyboardInterrupt
        choice, confirmation = _confirmed(store, queue, say)
        restarts, num_slots = ray.get(queue.status.remote()).restarts, len(slots)
    _write_champion(store, choice, confirmation)
    seconds = time.monotonic() - started
    trials = store.trials()
    return SearchResult(store.spec.name, store.folder, choice.champion, choice, trials, seconds, restarts, num_slots)


def check_configurations(configs: Iterable[TrialConfig], data: DataSource) -> None:
    """Raise `InvalidInput` with every rule that a component of these configurations would break when it is built."""
    configs = list(configs)
    remade = {config.model_dump_json(include=NETWORK_FIELDS): config for config in configs if _is_remade(config)}
    networks = list(remade.values())
    mixed = [config for config in configs if _mixes(config)]
    spoken = {str((config.backbone, config.method)): config for config in configs}
    checks = [(_build_components, configs), (_require_mixable, mixed), (_fit_words, list(spoken.values()))]
    checks += [(_fit_backbone, configs), (_try_network, networks)]
    _check_all((check, config, data) for check, each in checks for config in each)


def check_weights(configs: Iterable[TrialConfig], data: DataSource) -> None:
    """Load the weights of each pretrained backbone once: fetched before a slot asks, and one error if they can't be."""
    one_each = {str(config.backbone): config for config in configs if _is_pretrained(config.backbone)}
    _check_all((_load_weights, config, data) for config in one_each.values())


def _is_pretrained(backbone: Component) -> bool:
    return "weights" in BACKBONES.parameters(backbone.name) and backbone.params.get("weights") != "none"


def _load_weights(config: TrialConfig, data: DataSource) -> None:
    build_backbone(config.backbone, context_of(preprocessing_of(data.options), load_weights=True))


def check_rows(configs: Iterable[TrialConfig], pair: DomainPair) -> None:
    """Raise `InvalidInput` with every parameter of these configurations that asks for more rows than the pair has."""
    _check_all((_fit_rows, config, pair) for config in configs if is_closed_form(config.method.name))


def _check_all(checks: Iterable[tuple[Callable[[TrialConfig, Data], None], TrialConfig, Data]]) -> None:
    found: dict[str, None] = {}
    for check, config, data in checks:
        try:
            check(config, data)
        except InvalidInput as error:
            found[str(error)] = None
    if found:
        raise all_at_once("search space", found)


def _build_components(config: TrialConfig, data: DataSource) -> None:
    check_accumulation(config)
    contexts: dict[str, list[object]] = {
        "method": [_method_context(config, data)],
        "adaptor": [AdaptorContext(2)],
        "transfer": [TransferContext(len(data.intermediate))],
        "multi_task": [MultiTaskContext(2, 0 if data.auxiliary is None else 2)],
    }
    for field, registry in catalogue().items():
        component = getattr(config, field)
        if field not in ("backbone", "features", "augmentation"):  # features are built with their backbone
            registry.create(component.name, component.params, *contexts.get(field, []))
    augmentation_for(config.augmentation, data.options.modality)
    _require_for_images(config, data.options.modality)
    regulariser_of(config)


def _require_for_images(config: TrialConfig, modality: str) -> None:
    for field in () if modality == "images" else ("mixing", "test_time_augmentation"):
        stated = getattr(config, field).name
        if stated != "none":
            raise InvalidInput(f"{field}={stated!r} is for images, and data.modality is {modality!r}; choose none.")


def _method_context(config: TrialConfig, data: DataSource) -> MethodContext:
    few = int(data.target_labelled is not None)
    _, width = dimensions(config.backbone, expected_context(data.options))
    return MethodContext(width, 2, num_source=2, num_target=2, num_target_labelled=few)


def _mixes(config: TrialConfig) -> bool:
    return config.mixing.name != "none" and not is_closed_form(config.method.name)  # these train nothing


def _require_mixable(config: TrialConfig, data: DataSource) -> None:
    check_mixing(config, METHODS.create(config.method.name, config.method.params, _method_context(config, data)))


def _is_remade(config: TrialConfig) -> bool:
    """Whether the network is more than backbone and layers behind it, so that only building it tells if it fits."""
    fields = config.features, config.domain_norm, config.parameter_efficient
    return fields != (LAST_STAGE, SHARED_NORM, ALL_WEIGHTS)


def _fit_rows(config: TrialConfig, pair: DomainPair) -> None:
    _, width = dimensions(config.backbone, context_of(pair.preprocessing, load_weights=False))
    method = CLOSED_FORM.create(config.method.name, config.method.params, MethodContext(width, pair.num_classes))
    method.require_rows(len(pair.source), len(pair.target))


def _fit_backbone(config: TrialConfig, data: DataSource) -> None:
    sizes, _ = dimensions(config.backbone, expected_context(data.options))
    stages_that_train(config.freeze_depth, config.trained_stages, sizes, config.backbone.name)
    LR_MULTIPLIERS.create(config.lr_multipliers.name, config.lr_multipliers.params).multipliers(len(sizes))


def _fit_words(config: TrialConfig, data: DataSource) -> None:
    """Have something described, where a method needs words."""
    method = catalogue()["method"].create(config.method.name, config.method.params, _method_context(config, data))
    if method.needs_words:
        require_words(config.backbone, expected_context(data.options))


def _try_network(config: TrialConfig, data: DataSource) -> None:
    """Build the network without weights and show it an example, on a device that has shapes alone."""
    with torch.device("meta"):
        network_of(config, 2, expected_context(data.options)).eval()(blank_rows(data.options, 1))


@contextmanager
def _slots(
    plan: Plan, cluster: ClusterConfig, say: Say
) -> Iterator[tuple[ray.actor.ActorHandle, SlotPool, SearchMetrics]]:
    """Queue, slots and metrics of a search; when it breaks off, nobody waits for epochs in hand."""
    spec, folder = plan.store.spec, str(plan.store.folder)
    shape = SlotShape(cluster.workers_per_trial, cluster.cpus_per_worker, cluster.gpus_per_worker)
    threads = max(1, int(cluster.cpus_per_worker))
    task = SlotTask(spec.name, folder, spec.search.validators, threads, spec.backbones)
    metrics = SearchMetrics(spec.name, MetricsExporter(), plan.store.trials())
    queue = start_queue(spec.name, ray.put(plan.pair.for_trials()))
    max_slots = min(cluster.max_slots or MAX_SLOTS, spec.search.num_trials)
    slots = SlotPool(queue, task, shape, max_slots, metrics.slots_changed, say)
    patience_s = 0.0
    try:
        slots.start()
        yield queue, slots, metrics
        patience_s = CLOSING_S
    finally:
        metrics.close()
        slots.close(patience_s)


def _confirmed(store: StudyStore, queue: ray.actor.ActorHandle, say: Say) -> tuple[Choice, Confirmation]:
    """The choice, its first candidate loaded and evaluated afresh; one that can't be reproduced is passed over."""
    choice = choose(store.trials(), store.spec.source_histogram)
    if choice is None:
        raise RayTLError(
            f"study {store.spec.name!r} has no trial at full fidelity; see why with: ray-tl status {store.spec.name}"
        )
    passed_over = ""
    for index, candidate in enumerate(choice.candidates):
        confirmation, problem = _reevaluate(candidate, queue)
        if problem is None:
            rest = choice.candidates[:index] + choice.candidates[index + 1 :]
            return Choice((candidate, *rest), passed_over + choice.reason), confirmation
        passed_over += f"trial {candidate.trial.number} was passed over, {problem}; before that: "
        say(f"trial {candidate.trial.number} can't be confirmed: {problem}")
    raise RayTLError(f"study {store.spec.name!r}: no candidate's checkpoint gives its recorded predictions again.")


def _reevaluate(candidate: Candidate, queue: ray.actor.ActorHandle) -> tuple[Confirmation, str | None]:
    """Load the checkpoint afresh in a slot and evaluate it; gives what came out, and what is wrong with it."""
    trial = candidate.trial
    job = Job(f"evaluate-{trial.number}-{time.time_ns()}", trial.number, trial.config, "evaluate")
    ray.get(queue.submit.remote(job))
    outcome: Outcome = ray.get(queue.next_message.remote(job.key))
    if outcome.result is None:
        return {}, outcome.error or "it gave no result"
    agreement = float(str(outcome.result["agreement"]))
    problem = None if agreement >= MIN_AGREEMENT else f"only {agreement:.1%} of its predictions come out again"
    return outcome.result, problem


def _write_champion(store: StudyStore, choice: Choice, confirmation: Confirmation) -> None:
    candidates = [
        {"trial": item.trial.number, "objective": item.objective, "rejected": item.rejected}
        for item in choice.candidates
    ]
    content: dict[str, object] = {"trial": choice.champion.number, "reason": choice.reason, "confirmed": confirmation}
    content["candidates"] = candidates
    store.write_json(CHAMPION_FILE, content)


def _shares(pair: DomainPair) -> list[float]:
    counts = np.bincount(pair.source.labels, minlength=pair.num_classes)
    return [float(share) for share in counts / counts.sum()]


def _anywhere(data: DataSource) -> DataSource:
    """With absolute paths: a study may go on, or be promoted, from another folder than it was begun in."""
    keys = ("source", "target", "target_test", "target_labelled", "auxiliary")
    names = {key: name for key in keys if (name := getattr(data, key)) is not None}
    folders = {key: str(Path(name).absolute()) for key, name in names.items() if not name.startswith("digits:")}
    between = tuple(str(Path(name).absolute()) for name in data.intermediate)
    return data.model_copy(update={**folders, "intermediate": between})


def _load(data: DataSource, seed: int) -> DomainPair:
    pair = load_pair(data.source, data.target, data.target_test, data.options, seed, data.target_labelled)
    return with_further_domains(pair, data.intermediate, data.auxiliary, data.options)
