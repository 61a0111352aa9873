"""A search as tables for a terminal."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ray_tl.config import TrialConfig
from ray_tl.study.records import StudySpec, TrialRecord, TrialState

COLUMNS = (
    "trial",
    "state",
    "epoch",
    "objective",
    "source\naccuracy",
    "method, weighting",
    "frozen",
    "unfreezing",
    "augment",
)
NUMBERS = ("trial", "epoch", "merit", "objective", "source\naccuracy", "frozen")
STYLES = {
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETE: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
    TrialState.INFEASIBLE: "magenta",
}


def best_first(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Complete trials by objective, then the rest by how far they came."""
    return sorted(trials, key=_rank)


def ended_table(
    trials: Sequence[TrialRecord],
    champion: int | None,
    merits: Mapping[int, float],
    oracle: Mapping[int, float] | None = None,
) -> Table:
    """The trials of a search: in order of merit once there is a champion, the rest, or all, by objective.

    Args:
        trials: In any order.
        champion: Number of the trial to mark.
        merits: By number of the trial, the best first, of those that may win.
        oracle: As for `trials_table`.
    """
    places = {number: place for place, number in enumerate(merits)}
    order = sorted(best_first(trials), key=lambda trial: _place(trial, champion, places))
    title = "best first, by merit: what the winner is chosen by" if merits else "best first, by label-free objective"
    return trials_table(order, title, champion, oracle, merits)


def trials_table(
    trials: Sequence[TrialRecord],
    title: str,
    champion: int | None = None,
    oracle: Mapping[int, float] | None = None,
    merits: Mapping[int, float] | None = None,
) -> Table:
    """One row a trial.

    Args:
        trials: In the order of the rows.
        title: Above the table.
        champion: Number of the trial to mark.
        oracle: True accuracy on held-out target examples by trial, shown apart: the search never saw it.
        merits: A column of its own, if there are any.
    """
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS[:3] + (("merit",) if merits else ()) + COLUMNS[3:]:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    if oracle is not None:
        table.add_column("target\naccuracy\n(unseen)", justify="right", style="dim", no_wrap=True)
    for trial in trials:
        cells = _cells(trial, trial.number == champion)
        if merits:
            cells.insert(3, f"{merits[trial.number]:.3f}" if trial.number in merits else "–")
        shown = [] if oracle is None else [f"{oracle[trial.number]:.1%}" if trial.number in oracle else "–"]
        table.add_row(*cells, *shown, style="bold" if trial.number == champion else None)
    return table


def progress_view(spec: StudySpec, trials: Sequence[TrialRecord], elapsed_s: float) -> RenderableType:
    """What a person sees while a search runs: one line of totals, the running trials, the best so far."""
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    ended = [trial for trial in trials if trial.state is not TrialState.RUNNING]
    parts: list[RenderableType] = [Text(headline(spec, trials, elapsed_s), style="bold")]
    if running:
        parts.append(trials_table(running, "running"))
    if ended:
        parts.append(trials_table(best_first(ended)[:6], "best so far, by label-free objective"))
    return Group(*parts)


def headline(spec: StudySpec, trials: Sequence[TrialRecord], elapsed_s: float) -> str:
    """Totals in one line; refits are counted apart from the trials of the search."""
    searched = [trial for trial in trials if trial.refit_of is None]
    refits = [trial for trial in trials if trial.refit_of is not None]
    ended = sum(trial.state is not TrialState.RUNNING for trial in searched)
    cost = sum(trial.cost_s for trial in trials)
    parts = [f"{ended}/{spec.search.num_trials} trials ended ({_states(searched) or 'none yet'})"]
    parts += [f"{len(refits)} refit{'s' if len(refits) > 1 else ''} ({_states(refits)})"] if refits else []
    return f"study {spec.name}: {', '.join(parts)}, {elapsed_s:.0f} s, {cost:.0f} worker-seconds of training"


def ended_line(trial: TrialRecord) -> str:
    """One line for a trial that has ended, for logs."""
    last = trial.last
    score = f"objective {last.objective:.3f} at epoch {last.epoch}" if last else "no epoch"
    why = f": {trial.error}" if trial.error else ""
    return f"trial {trial.number:>3} {trial.state:<10} {score}, {_method(trial)}, {trial.cost_s:.1f} s{why}"


def _states(trials: Sequence[TrialRecord]) -> str:
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{counts[state]} {state}" for state in TrialState if counts[state])


def _place(trial: TrialRecord, champion: int | None, places: Mapping[int, int]) -> tuple[int, bool, bool]:
    """By merit; refits, which have none of their own, come after their trial, and the champion before both."""
    of = trial.number if trial.refit_of is None else trial.refit_of
    return places.get(of, len(places)), trial.number != champion, trial.refit_of is not None


def _rank(trial: TrialRecord) -> tuple[bool, int, float]:
    complete = trial.state is TrialState.COMPLETE
    return not complete, 0 if complete else -len(trial.epochs), -(trial.last.objective if trial.last else 0.0)


def _cells(trial: TrialRecord, is_champion: bool) -> list[str | Text]:
    last, config = trial.last, trial.config
    training = ["", "", ""] if _is_solved(trial) else _training(config)
    return [
        f"{'★ ' if is_champion else ''}{trial.number}",
        Text(str(trial.state), style=STYLES[trial.state]),
        f"{last.epoch if last else 0}/{config.epochs}",
        f"{last.objective:.3f}" if last else "",
        _source_accuracy(trial),
        _method(trial),
        *training,
    ]


def _source_accuracy(trial: TrialRecord) -> str:
    if trial.refit_of is not None:
        return "trained on"
    scores = trial.last.scores if trial.last else {}
    return f"{scores['source_accuracy']:.1%}" if "source_accuracy" in scores else ""


def _training(config: TrialConfig) -> list[str]:
    unfreezing = "" if config.unfreezing.name == "fixed" else config.unfreezing.name
    return [_frozen(config), unfreezing, config.augmentation.name]


def _frozen(config: TrialConfig) -> str:
    """Stages before those that train, and how many these are if not all."""
    block = "" if config.trained_stages is None else f", {config.trained_stages} train"
    words = {"head_only": "all", "everything": "0"}
    depth = str(config.freeze_depth)
    return words.get(depth, depth.replace("last_", "all but ")) + block


def _is_solved(trial: TrialRecord) -> bool:
    """Whether its head was solved for: without a loss, what its configuration says of training has no part in it."""
    return trial.last is not None and not trial.last.losses


def _method(trial: TrialRecord) -> str:
    name = trial.config.method.name
    if trial.combines:
        return f"{name} (of refits {', '.join(map(str, trial.combines))})"
    if trial.refit_of is not None:
        return f"{name} (refit of {trial.refit_of})"
    if trial.is_baseline:
        return f"{name} (baseline)"
    return name if name == "source_only" or _is_solved(trial) else f"{name}, {trial.config.loss_weighting.name}"
