"""Scores that nobody asked for during the search, computed once it is over."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ray_tl.cli.options import Home, Json, Storage, Study
from ray_tl.cli.output import Output
from ray_tl.errors import InvalidInput

if TYPE_CHECKING:
    from ray_tl.rescoring import Rescoring
    from ray_tl.study.records import TrialRecord

COLUMNS = 6  # of scores in a table, at most: so many fit beside a trial and its method


def rescore(
    study: Study,
    validators: Annotated[
        list[str] | None,
        typer.Option(help="NAME, or NAME,NAME; may be given several times. Default: all.", metavar="NAME"),
    ] = None,
    selection: Annotated[
        str | None,
        typer.Option(help="Also say what this rule of choice would take, written as search.selection in a file."),
    ] = None,
    home: Home = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    r"""Score the trials of a search by other label-free validators, from the evidence that they left.

    ray-tl rescore STUDY

    ray-tl rescore STUDY --validators ensv,mixval

    ray-tl rescore STUDY --selection 'validators: {names: \[ensv, mixval]}'

    No network is loaded, and no data are read: a trial that has ended leaves
    its predictions, and some features of either domain. Names of validators
    and rules: ray-tl components validators, ray-tl components selection.

    One row a trial at full fidelity; * marks the best of a column, an arrow
    the good end. Nothing of the study is changed. To take another trial than
    the champion: ray-tl promote STUDY --trial N
    """
    from ray_tl import api

    output = Output(as_json)
    names = [name for each in validators or () for name in _names(each)]
    with _progress() as progress:
        found = api.rescore(study, names, selection, home, progress, storage)
    show_rescoring(found, output)


def _names(stated: str) -> list[str]:
    """Validators of one option; raises `InvalidInput` where a comma has no name beside it."""
    names = [name.strip() for name in stated.split(",")]
    if not all(names):
        raise InvalidInput(
            f"--validators={stated!r} must be NAME or NAME,NAME with a name on each side of a comma; leave the option "
            "out for all validators."
        )
    return names


def show_rescoring(found: "Rescoring", output: Output) -> None:
    """Scores of every trial, what is missing of them, and what another rule would choose."""
    output.emit(found.summary())
    output.say(f"study {found.study}: * best of its column, ↑ higher is better, ↓ lower is better")
    for names in _in_equal_parts(found.validators):
        output.say(_table(found, names))
    for line in _missing(found):
        output.say(Text(line, style="yellow"))
    for line in _choice(found):
        output.say(line)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shown on a terminal, on stderr; nothing stays of it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scoring trials", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _in_equal_parts(names: Sequence[str]) -> list[Sequence[str]]:
    """As few parts as tables hold them, none much smaller than the others."""
    num_tables = max(1, -(-len(names) // COLUMNS))
    size = max(1, -(-len(names) // num_tables))
    return [names[start : start + size] for start in range(0, len(names), size)]


def _table(found: "Rescoring", names: Sequence[str]) -> Table:
    from ray_tl.validation import VALIDATORS

    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("method", no_wrap=True)
    best = {name: found.best(name) for name in names}
    for name in names:
        arrow = "↑" if VALIDATORS.create(name, {}).higher_is_better else "↓"
        table.add_column(f"{name} {arrow}", justify="right", overflow="fold")
    for trial in found.trials:
        scores = found.scores[trial.number]
        cells = [_cell(scores.get(name), trial.number in best[name]) for name in names]
        table.add_row(
            str(trial.number),
            Text(_method(found, trial)),
            *cells,
            style="bold" if trial.number == found.champion else None,
        )
    return table


def _method(found: "Rescoring", trial: "TrialRecord") -> str:
    marks = ["champion"] if trial.number == found.champion else []
    marks += ["source-only"] if trial.is_baseline else []
    marks += [] if trial.refit_of is None else [f"refit of {trial.refit_of}"]
    return f"{trial.config.method.name} ({', '.join(marks)})" if marks else trial.config.method.name


def _cell(value: float | None, is_best: bool) -> str:
    return "–" if value is None else f"{value:.4f}{'*' if is_best else ' '}"


def _missing(found: "Rescoring") -> list[str]:
    """Why scores are not there, one line for those that lack for one reason."""
    lacking: dict[tuple[tuple[int, ...], str], list[str]] = {}
    for gap in found.gaps:
        lacking.setdefault((gap.trials, gap.reason), []).append(gap.validator)
    return [
        f"not computed: {', '.join(names)}{_of(found, trials)}: {reason}" for (trials, reason), names in lacking.items()
    ]


def _of(found: "Rescoring", trials: Sequence[int]) -> str:
    if len(trials) == len(found.trials):
        return ""
    return f" of trial{'s' if len(trials) > 1 else ''} {', '.join(map(str, trials))}"


def _choice(found: "Rescoring") -> list[str]:
    if found.choice is None:
        return []
    taken = found.choice.champion
    lines = [f"selection {found.selection} takes trial {taken.number}, {_method(found, taken)}: {found.choice.reason}"]
    if found.champion is None:
        return [*lines, "the search has chosen no champion yet"]
    if taken.number == found.champion:
        return [*lines, "it is the champion that the search chose"]
    if taken.number == next((each.refit_of for each in found.trials if each.number == found.champion), None):
        return [*lines, f"it is the trial that the search chose, and trained again as trial {found.champion}"]
    chosen = f"the search chose trial {found.champion}"
    return [*lines, f"{chosen}; package the other one:  ray-tl promote {found.study} --trial {taken.number}"]
