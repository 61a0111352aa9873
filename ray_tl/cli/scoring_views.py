"""How an evaluation and the ledger are shown."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ray_tl.cli.output import Output
from ray_tl.scoring import Evaluation, LedgerRow, totals
from ray_tl.selection.oracle import Interval

MOST_CLASSES = 15
SHOWN_PAIRS = 10
WIDTH = 8  # letters of a class above its column


def show_evaluation(found: Evaluation, output: Output) -> None:
    """What a trial is worth on true classes, and how it compares with the others."""
    output.emit(found.summary())
    score = found.score
    known = f"{found.num_labels} of {found.num_rows} examples of {found.domain} have a label"
    output.say(f"study {found.study}, {_trial(found)}: {known} ({found.labels})")
    output.say(f"accuracy           {_share(score.accuracy)}")
    output.say(f"balanced accuracy  {score.further['balanced_accuracy']:.1%}")
    output.say(f"macro F1           {score.further['macro_f1']:.1%}")
    errors = {"ECE": "expected_calibration_error", "Brier": "brier", "NLL": "nll"}
    output.say("calibration        " + ", ".join(f"{name} {score.further[key]:.3f}" for name, key in errors.items()))
    for line in (*_against_source_only(found), *_standing(found), *_expected(found)):
        output.say(line)
    if len(found.classes) <= MOST_CLASSES:
        output.say(_confusion(found))
    else:
        output.say(_weakest(found))
        output.say(_confused(found))
    for note in found.notes:
        output.say(Text(f"note: {note}", style="yellow"))


def show_ledger(rows: Sequence[LedgerRow], output: Output) -> None:
    """One row a study, and what they say together."""
    for row in rows:
        output.emit(row.summary())
    if not rows:
        output.say("no search was scored yet; once the true classes of a target are known, score its search with:")
        output.say("ray-tl evaluate STUDY --labels FOLDER|TABLE")
        return
    table = Table(title="choices of past searches, in points of accuracy", title_justify="left", box=SIMPLE_HEAD)
    table.header_style, table.pad_edge = "bold", False
    for name in ("study", "source > target", "scored on"):
        table.add_column(name, overflow="fold")
    for name in ("trials", "source-\nonly", "champion", "best", "regret", "rank"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("method")
    table.add_column("expected", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_ledger_cells(row))
    output.say(table)
    together = totals(rows)
    output.emit(together.summary())
    parts = [f"{together.studies} scored"]
    if together.mean_regret_points is not None:
        parts.append(f"mean regret {together.mean_regret_points:.1f}, worst {together.worst_regret_points:.1f} points")
    if together.share_worse is not None:
        parts.append(f"{together.share_worse:.0%} of champions more than 1 point worse than source-only")
    if together.share_inside is not None:
        parts.append(f"{together.share_inside:.0%} inside the expected interval")
    output.say("; ".join(parts))


def _trial(found: Evaluation) -> str:
    kind = "champion, " if found.is_champion else ""
    return f"{kind}trial {found.trial.number} ({found.trial.config.method.name})"


def _share(interval: Interval) -> str:
    return f"{interval.value:.1%}   (95 % interval {interval.low:.1%} to {interval.high:.1%})"


def _against_source_only(found: Evaluation) -> list[str]:
    if found.source_only is None or found.difference is None:
        return ["source-only        left no predictions to compare with"]
    number, baseline = found.source_only
    told = f"source-only        {_share(baseline.accuracy)}, trial {number}"
    if number == found.trial.number:
        return [told + ": the same trial"]
    pairs, points = found.difference, found.difference.difference
    interval = f"(95 % interval {100 * points.low:+.1f} to {100 * points.high:+.1f})"
    alone = f"right alone on {pairs.only_first} examples, source-only on {pairs.only_second}"
    return [
        told,
        f"difference         {100 * points.value:+.1f} points {interval}; {alone}; McNemar's p {pairs.p_value:.2g}",
    ]


def _standing(found: Evaluation) -> list[str]:
    standing = found.standing
    if standing is None:
        return ["regret             unknown: no trial has reached full fidelity"]
    best = f"best is trial {standing.best} with {standing.best_accuracy:.1%}"
    rank = f"rank {standing.rank} among {standing.num_ranked} trials at full fidelity"
    return [f"regret             {standing.regret_points:.1f} points, {rank}; {best}"]


def _expected(found: Evaluation) -> list[str]:
    expected = found.expected
    if expected is None:
        return []
    where = "inside" if expected.holds(found.score.accuracy.value) else "outside"
    interval = f"({expected.low:.1%} to {expected.high:.1%})"
    return [f"expected           {expected.accuracy:.1%} {interval}, said without labels: the truth is {where}"]


def _confusion(found: Evaluation) -> Table:
    """True classes are rows, predicted ones columns."""
    score = found.score
    table = Table(title="true class (rows), predicted class (columns)", title_justify="left", box=SIMPLE_HEAD)
    table.header_style, table.pad_edge = "bold", False
    table.add_column("class", overflow="fold")
    for name in found.classes:
        table.add_column(Text(_short(name)), justify="right", no_wrap=True)
    table.add_column("examples", justify="right")
    table.add_column("recall", justify="right")
    for number, (name, counts) in enumerate(zip(found.classes, score.confusion, strict=True)):
        cells = [
            Text(str(count) if count else "·", style="bold" if number == other else "")
            for other, count in enumerate(counts)
        ]
        table.add_row(Text(name), *cells, str(sum(counts)), _recall(score.recalls[number]))
    return table


def _weakest(found: Evaluation) -> Table:
    """The classes of the lowest recall."""
    score = found.score
    known = [(recall, number) for number, recall in enumerate(score.recalls) if recall is not None]
    rest = max(0, len(known) - MOST_CLASSES)
    title = f"classes of the lowest recall ({rest} more with labels)" if rest else "recall of each class"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.header_style, table.pad_edge = "bold", False
    table.add_column("class")
    table.add_column("examples", justify="right")
    table.add_column("recall", justify="right")
    for recall, number in sorted(known)[:MOST_CLASSES]:
        table.add_row(Text(found.classes[number]), str(score.support[number]), _recall(recall))
    return table


def _confused(found: Evaluation) -> Table:
    """The pairs of classes that are confused most often."""
    pairs = [
        (count, one, other)
        for one, counts in enumerate(found.score.confusion)
        for other, count in enumerate(counts)
        if one != other and count
    ]
    table = Table(title="most confused", title_justify="left", box=SIMPLE_HEAD)
    table.header_style, table.pad_edge = "bold", False
    table.add_column("true class")
    table.add_column("predicted as")
    table.add_column("examples", justify="right")
    table.add_column("of the class", justify="right")
    for count, one, other in sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:SHOWN_PAIRS]:
        share = f"{count / found.score.support[one]:.0%}"
        table.add_row(Text(found.classes[one]), Text(found.classes[other]), str(count), share)
    return table


def _ledger_cells(row: LedgerRow) -> list[str | Text]:
    places = f"{_last(row.source)} > {_last(row.target)}"
    rank = "–" if row.rank is None else f"{row.rank}/{row.num_ranked}"
    expected = "–"
    if row.expected is not None:
        is_in = "inside" if row.expected.holds(row.champion) else "outside"
        expected = f"{row.expected.accuracy:.1%}, {is_in}"
    return [
        Text(row.study),
        Text(places),
        f"{row.domain}, {row.num_labels}",
        str(row.trials),
        _percent(row.source_only),
        f"{row.champion:.1%}",
        _percent(row.best),
        "–" if row.regret_points is None else f"{row.regret_points:.1f}",
        rank,
        Text(row.method),
        expected,
    ]


def _last(place: str) -> str:
    """A path by its last part, others as they are."""
    return place if place.startswith("digits:") else PurePosixPath(place).name


def _short(name: str) -> str:
    return name if len(name) <= WIDTH else f"{name[: WIDTH - 1]}…"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _recall(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
