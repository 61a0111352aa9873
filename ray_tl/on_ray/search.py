"""One search, from files to a champion."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch
from ray.exceptions import RayActorError

from ray_tl.errors import RayTLError, TrialFailed
from ray_tl.models.memory import free_bytes
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.confirmation import Confirmation, evidence_of, readable_trials, reevaluate
from ray_tl.on_ray.metrics import MetricsExporter
from ray_tl.on_ray.placement import SlotShape, total_resources
from ray_tl.on_ray.reach import MarkerFile, marker_for_nodes
from ray_tl.on_ray.refit import Refit, reason_of, refit, with_network
from ray_tl.on_ray.room import SlotRoom, most_resources
from ray_tl.on_ray.search_metrics import SearchMetrics
from ray_tl.on_ray.session import ray_session
from ray_tl.on_ray.slots import CLOSING_S, LONGEST_PAUSE_S, QueueLost, SlotPool
from ray_tl.on_ray.trial_queue import Limits, QueueHandle, SlotTask, start_queue
from ray_tl.on_ray.tune_search import StudySearcher, Watcher, run_trials
from ray_tl.planning import Plan, Room
from ray_tl.selection import Choice
from ray_tl.selection.findings import Findings, Guided, findings_of, guided_choice
from ray_tl.study.records import TrialRecord, TrialState
from ray_tl.study.store import CHAMPION_FILE, StudyStore

MAX_SLOTS = 64
MAX_LOST_QUEUES = 6
Say = Callable[[str], None]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search gives.

    Attributes:
        champion: Best finished trial, or what became of it when it was trained again; looked at again.
        choice: All candidates in order of preference.
        refits: What was trained again on all of the source, the best first; empty where the study asks for none.
        findings: What they say of the target and of the champion.
        seconds: Of this process; a resumed search counts from its resumption.
        slot_restarts: How often each slot came back after its workers had died.
        slots: How many there were at the end; more than at the beginning if the cluster has grown.
    """

    study: str
    folder: Path
    champion: TrialRecord
    choice: Choice
    findings: Findings
    trials: list[TrialRecord]
    seconds: float
    slot_restarts: dict[int, int]
    slots: int
    refits: tuple[Refit, ...] = ()

    @property
    def reason(self) -> str:
        """Why the champion is the champion."""
        return reason_of(self.choice, self.refits)

    def summary(self) -> dict[str, object]:
        """Plain values for `--json`."""
        states = Counter(str(trial.state) for trial in self.trials)
        return {
            "study": self.study,
            "folder": str(self.folder),
            "trials": sum(trial.refit_of is None for trial in self.trials),
            "states": dict(states),
            "seconds": round(self.seconds, 1),
            "slots": self.slots,
            "slot_restarts": sum(self.slot_restarts.values()),
            "champion": self.champion_summary(),
            "refit": self.refits[0].summary() if self.refits else None,
            **self.findings.content(),
        }

    def champion_summary(self) -> dict[str, object]:
        last = self.champion.last
        assert last is not None
        return {
            "trial": self.champion.number,
            "objective": last.objective,
            "scores": last.scores,
            "config": self.champion.config.model_dump(mode="json"),
            "is_source_only": (self.refits[0].of if self.refits else self.champion).is_baseline,
            "reason": self.reason,
        }


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
        NotShared: If nodes of the cluster don't see the files of the study.
        StorageFailed: If these can't be written or read.
        StudyBusy: If another process searches this study.
        KeyboardInterrupt: On Ctrl-C; the study can be resumed.
    """
    started = time.monotonic()
    with (
        plan.store.exclusive(),
        ray_session(cluster, dashboard) as url,
        marker_for_nodes(plan.store, shape := shape_on(cluster)) as marker,
    ):
        lost_queues, num_epochs = 0, -1
        while True:
            try:
                return _searched(plan, cluster, shape, marker, url, started, watch, say, pruning)
            except (QueueLost, RayActorError) as error:  # confirmation and refits ask the queue themselves
                before, num_epochs = num_epochs, sum(len(trial.epochs) for trial in plan.store.trials())
                lost_queues = 1 if num_epochs > before else lost_queues + 1
                if lost_queues > MAX_LOST_QUEUES:
                    raise RayTLError(f"the trial queue was lost {lost_queues} times in a row: {error}") from error
                log.warning("the trial queue was lost: %s", error)
                say("the trial queue was lost; the search goes on with a new one")
                time.sleep(min(2.0 ** (lost_queues - 1), LONGEST_PAUSE_S))


def _searched(
    plan: Plan,
    cluster: ClusterConfig,
    shape: SlotShape,
    marker: MarkerFile,
    url: str | None,
    started: float,
    watch: Watcher,
    say: Say,
    pruning: bool,
) -> SearchResult:
    """With one trial queue, all of a search that is not done yet."""
    store = plan.store
    with _slots(plan, cluster, shape, marker, say) as (queue, slots, metrics):
        device = "CPU" if shape.gpus_per_worker == 0 else f"GPU ({shape.gpus_per_worker:g} a worker)"
        say(f"{len(slots)} warm slots of {shape.workers} worker(s), on the {device}; Ray dashboard: {url or 'none'}")
        limit = store.spec.search.time_budget_s
        deadline = None if limit is None else started + limit
        watchers = (metrics.trial_changed, watch)
        searcher = StudySearcher(store, queue, slots, shape.workers, deadline, watchers)
        run_trials(store, searcher, pruning, slots.max_slots + 1, str(store.folder / "ray"))
        _require_finished(store, slots, searcher)
        found, confirmation = _confirmed(store, queue.actor, say)
        _write_champion(store, found.choice, confirmation)

        def changed(trial: TrialRecord) -> None:
            for watcher in watchers:
                watcher(trial)

        refits = refit(store, queue.actor, slots, found, shape.workers, changed, say)
        restarts, num_slots = slots.restarts, len(slots)
    findings = _findings(store, found, refits)
    _write_champion(store, found.choice, confirmation, refits, findings)
    return SearchResult(
        study=store.spec.name,
        folder=store.folder,
        champion=refits[0].stands if refits else found.choice.champion,
        choice=found.choice,
        findings=findings,
        trials=store.trials(),
        seconds=time.monotonic() - started,
        slot_restarts=restarts,
        slots=num_slots,
        refits=tuple(refits),
    )


def _require_finished(store: StudyStore, slots: SlotPool, searcher: StudySearcher) -> None:
    """Raise if Tune came back before the study had all its trials, or with nothing to choose from."""
    name = store.spec.name
    if slots.problem is not None:
        raise slots.problem
    if searcher.stopped is not None:
        raise TrialFailed(
            f"study {name!r} stopped: {searcher.stopped} Fix that, and resume with: {store.resume_command}"
        )
    if not searcher.has_finished():
        raise KeyboardInterrupt
    others = [trial for trial in store.trials() if not trial.is_baseline and trial.refit_of is None]
    failed = [trial for trial in others if trial.state in (TrialState.FAILED, TrialState.INFEASIBLE)]
    if others and len(failed) == len(others):
        reasons = Counter(trial.failure.words if trial.failure else "error" for trial in failed)
        listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
        raise TrialFailed(
            f"study {name!r}: every trial but the baseline failed ({listed}), so there is nothing to choose from; the "
            f"last one: {failed[-1].error} See all with: ray-tl status {name}"
        )


def room_of(cluster: ClusterConfig) -> Room | None:
    """Memory for training of a Ray that is started here; of one that runs already nothing is known before."""
    if cluster.address is not None:
        return None
    ranks, gpus = cluster.workers_per_trial, cluster.gpus_per_worker
    if gpus == "auto":
        gpus = 1.0 if torch.cuda.is_available() and cluster.num_gpus != 0 else 0.0
    if gpus > 0 and torch.cuda.is_available():
        sharing = max(1, int(1 / gpus))
        return Room("the GPU", free_bytes(torch.device("cuda", 0)), sharing, ranks)
    processors = {"CPU": float(cluster.num_cpus or os.cpu_count() or 1)}
    shape = SlotShape(ranks, cluster.cpus_per_worker)
    num_slots = max(1, min(shape.fits([processors]), cluster.max_slots or MAX_SLOTS))
    return Room("this machine", free_bytes(torch.device("cpu")), num_slots * ranks, ranks)


def shape_on(cluster: ClusterConfig) -> SlotShape:
    """What a slot takes of the cluster that is joined: `auto` is one GPU a worker where there are, or may be, GPUs."""
    gpus = cluster.gpus_per_worker
    if gpus == "auto":
        has = any(node.get("GPU", 0) >= 1 for node in total_resources()) or (most_resources() or {}).get("GPU", 0) >= 1
        gpus = 1.0 if has else 0.0
    return SlotShape(cluster.workers_per_trial, cluster.cpus_per_worker, gpus)


@contextmanager
def _slots(
    plan: Plan, cluster: ClusterConfig, shape: SlotShape, marker: MarkerFile, say: Say
) -> Iterator[tuple[QueueHandle, SlotPool, SearchMetrics]]:
    """Queue, slots and metrics of a search; when it breaks off, nobody waits for epochs in hand."""
    spec, folder = plan.store.spec, str(plan.store.folder)
    threads, shares = max(1, int(cluster.cpus_per_worker)), 0 < shape.gpus_per_worker < 1
    task = SlotTask(spec.name, folder, spec, threads, marker, spec.backbones, shares)
    metrics = SearchMetrics(spec.name, MetricsExporter(), plan.store.trials())
    limits = Limits(cluster.lease_s, cluster.hang_s, spec.search.trial_time_limit_s)
    queue = start_queue(spec, ray.put(plan.pair.for_trials()), limits)
    max_slots = min(cluster.max_slots or MAX_SLOTS, spec.search.num_trials)
    room = SlotRoom(spec.name, shape, max_slots, cluster.address is not None, cluster.wait_for_room_s, say)
    slots = SlotPool(queue.actor, task, shape, max_slots, room, metrics.slots_changed, say, plan.store.resume_command)
    patience_s = 0.0
    try:
        slots.start()
        yield queue, slots, metrics
        patience_s = CLOSING_S
    finally:
        metrics.close()
        slots.close(patience_s)
        ray.kill(queue.actor)


def _confirmed(store: StudyStore, queue: ray.actor.ActorHandle, say: Say) -> tuple[Guided, Confirmation]:
    """The choice, its first candidate loaded and evaluated afresh; one that can't be reproduced is passed over."""
    evidence = evidence_of(store)
    trials, unreadable = readable_trials(store)
    for line in unreadable:
        say(line)
    found = guided_choice(store.spec, trials, evidence)
    if found is None:
        raise RayTLError(
            f"study {store.spec.name!r} has no trial at full fidelity; see why with: ray-tl status {store.spec.name}"
        )
    choice, passed_over = found.choice, ""
    for index, candidate in enumerate(choice.candidates):
        confirmation, problem = reevaluate(candidate.trial, queue)
        if problem is None:
            rest = choice.candidates[:index] + choice.candidates[index + 1 :]
            confirmed = Choice((candidate, *rest), passed_over + choice.reason)
            return replace(found, choice=confirmed), confirmation
        passed_over += f"trial {candidate.trial.number} was passed over, {problem}; before that: "
        say(f"trial {candidate.trial.number} can't be confirmed: {problem}")
    raise RayTLError(f"study {store.spec.name!r}: no candidate's checkpoint gives its recorded predictions again.")


def _findings(store: StudyStore, found: Guided, refits: Sequence[Refit]) -> Findings:
    """Of what stands at the end: of the network that a trial was trained again as, if that is kept."""
    trials, evidence = readable_trials(store)[0], evidence_of(store)
    if refits and refits[0].kept:
        choice, trials, evidence = with_network(refits[0], found.choice, trials, evidence)
        found = replace(found, choice=choice)
    return findings_of(store.spec, found, trials, evidence)


def _write_champion(
    store: StudyStore,
    choice: Choice,
    confirmation: Confirmation,
    refits: Sequence[Refit] = (),
    findings: Findings | None = None,
) -> None:
    shown = ("objective", "merit", "rejected")
    candidates = [
        {"trial": item.trial.number, **{name: getattr(item, name) for name in shown}} for item in choice.candidates
    ]
    content: dict[str, object] = {"trial": choice.champion.number, "reason": reason_of(choice, refits)}
    content |= {"confirmed": confirmation, "candidates": candidates}
    if refits:
        first, *others = refits
        content |= {"trial": first.stands.number, "refit": first.summary()}
        content |= {"confirmed": first.confirmation} if first.kept else {}
        content |= {"other_refits": [each.summary() for each in others]} if others else {}
    if findings is not None:
        content |= findings.content()
    store.write_json(CHAMPION_FILE, content)
