"""A running search on the terminal."""

import time
from types import TracebackType
from typing import Self

from rich.live import Live

from ray_tl.cli.output import Output
from ray_tl.errors import Interrupted
from ray_tl.observability.findings import finding_lines
from ray_tl.observability.tables import ended_line, ended_table, headline, progress_view
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.search import SearchResult, run_search
from ray_tl.planning import Plan
from ray_tl.study.records import StudySpec, TrialRecord, TrialState

HEARTBEAT_S = 15.0


class LiveSearch:
    """Shows each change of a trial: a table that stays in place on a terminal, else a line for each ended trial.

    Args:
        spec: Of the study.
        stored: Trials of an earlier process.
        output: Where to; JSON output gets one line for each epoch and each ended trial.
    """

    def __init__(self, spec: StudySpec, stored: list[TrialRecord], output: Output) -> None:
        self._spec, self._output = spec, output
        self._trials = {trial.number: trial for trial in stored}
        self._started = time.monotonic()
        self._spoke = self._started
        terminal = output.console.is_terminal
        self._live = Live(console=output.console, refresh_per_second=4, transient=True) if terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def watch(self, trial: TrialRecord) -> None:
        """A trial has changed."""
        self._trials[trial.number] = trial
        self._emit(trial)
        if self._live is not None:
            self._live.update(progress_view(self._spec, list(self._trials.values()), self._elapsed()))
        elif trial.state is not TrialState.RUNNING:
            self._speak(ended_line(trial))
        elif time.monotonic() - self._spoke > HEARTBEAT_S:
            self._speak(headline(self._spec, list(self._trials.values()), self._elapsed()))

    def _emit(self, trial: TrialRecord) -> None:
        ended = trial.state is not TrialState.RUNNING
        last = trial.last
        if not ended and last is None:
            return
        self._output.emit(
            {
                "event": "trial" if ended else "epoch",
                "trial": trial.number,
                "state": str(trial.state),
                "epoch": last.epoch if last else 0,
                "objective": last.objective if last else None,
                "method": trial.config.method.name,
                **({"error": trial.error} if trial.error else {}),
                **({} if trial.refit_of is None else {"refit_of": trial.refit_of}),
            }
        )

    def _speak(self, line: str) -> None:
        self._spoke = time.monotonic()
        self._output.say(line)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def run_with_progress(
    plan: Plan,
    where: ClusterConfig,
    output: Output,
    pruning: bool = True,
    dashboard: bool = True,
    closing: bool = True,
) -> SearchResult:
    """Run a planned search and show it; ends with the leaderboard (if `closing`), or with how to resume.

    Raises:
        Interrupted: On Ctrl-C.
    """
    store = plan.store
    name = store.spec.name
    output.say(f"study {name} in {store.folder}   (Ctrl-C is safe: {store.resume_command})")
    if store.spec.artifacts is not None:
        output.say(f"its checkpoints and evidence are in {store.artifacts}")
    for line in store.spec.data_lines():
        output.say(line)
    for number, item in enumerate(store.spec.advice, len(store.spec.first)):
        output.say(f"trial {number} is advised: {item.reason}")
    if store.spec.judge:
        output.say(f"trials are compared by source accuracy, and on the target by {store.spec.judge}.")
    advice = [item.model_dump(mode="json") for item in store.spec.advice]
    data = store.spec.data_summary.model_dump(mode="json")
    started = {"event": "study", "study": name, "folder": str(store.folder), "data": data}
    output.emit({**started, "advice": advice, "judge": store.spec.judge})
    try:
        with LiveSearch(store.spec, store.trials(), output) as live:
            result = run_search(plan, where, live.watch, output.say, pruning, dashboard)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; go on with: {store.resume_command}") from None
    if closing:
        _show_result(result, output, store.backend.command_options)
    return result


def _show_result(result: SearchResult, output: Output, options: str) -> None:
    output.say(ended_table(result.trials, result.champion.number, result.choice.merits))
    output.say(f"champion: trial {result.champion.number}: {result.reason}")
    for line in finding_lines(result.findings.content()):
        output.say(line)
    output.say(f"promote it with: ray-tl promote {result.study}{options}")
    output.emit(result.summary())
