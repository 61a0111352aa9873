"""How each verb shows its answer."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ray_tl.api import DataCheck, StudyStatus
from ray_tl.cli.output import Output
from ray_tl.errors import InvalidInput, RayTLError
from ray_tl.observability.findings import finding_lines
from ray_tl.observability.tables import ended_table, headline, progress_view

if TYPE_CHECKING:
    from ray_tl.promotion.predict import FilePrediction
    from ray_tl.promotion.promote import PromotedVersion
    from ray_tl.study.records import TrialRecord
    from ray_tl.training.layer_plan import LayerPlan


def show_studies(rows: list[dict[str, object]], output: Output) -> None:
    columns = ("study", "trials", "state", "champion", "created")
    table = Table(*columns, header_style="bold", pad_edge=False)
    for row in rows:
        output.emit(row)
        table.add_row(*(str("" if row[key] is None else row[key]) for key in columns))
    output.say(table if rows else "no studies yet; begin with: ray-tl quickstart")
    for row in rows:
        if "error" in row:
            output.say(f"{row['study']} is broken: {row['error']}")


def show_status(status: StudyStatus, output: Output) -> None:
    output.emit(status.summary())
    output.say(headline(status.spec, status.trials, status.seconds))
    for line in status.spec.data_lines():
        output.say(line)
    output.say(ended_table(status.trials, status.champion, status.merits))
    for line in status.examination.lines() if status.examination else ():
        output.say(line)
    for line in finding_lines(status.findings):
        output.say(line)
    advised = [trial.number for trial in status.trials if trial.is_advised]
    for number, item in zip(advised, status.spec.advice, strict=False):  # some may not have begun
        output.say(f"trial {number} was advised: {item.reason}")
    for trial in status.trials:
        if trial.error:
            output.say(f"trial {trial.number} {trial.state}: {trial.error}")
    for line in _doctor_lines(status.trials):
        output.say(Text(line, style="yellow"))
    output.say(_next_step(status))


def show_data_check(check: DataCheck, output: Output) -> None:
    """What was read, and what a search would be refused for."""
    output.emit(check.summary())
    for line in check.data.lines(check.is_balanced):
        output.say(line)
    for number, problem in enumerate(check.problems, 1):
        output.say(Text(f"problem {number}: {problem}", style="red"))
    if not check.problems:
        output.say("a search would start with these data")


def follow(statuses: Iterable[StudyStatus], output: Output) -> None:
    """Show each status; on a terminal in place, else a headline for each change."""
    from rich.live import Live

    last = None
    if output.console.is_terminal:
        with Live(console=output.console, auto_refresh=False) as live:
            for last in statuses:
                live.update(progress_view(last.spec, last.trials, last.seconds), refresh=True)
    else:
        for last in statuses:
            output.emit(last.summary())
            output.say(headline(last.spec, last.trials, last.seconds))
    if last is not None:
        output.say(_next_step(last))


def show_predictions(predictions: "list[FilePrediction]", output: Output) -> None:
    table = Table("example", "label", "confidence", header_style="bold", pad_edge=False)
    for item in predictions:
        named = {"text": item.text, "row": item.row}
        row = {
            "file": None if item.file is None else str(item.file),
            **{key: value for key, value in named.items() if value is not None},
            "label": item.label,
            "confidence": item.confidence,
            "probabilities": item.probabilities,
            "version": item.version,
        }
        output.emit(row)
        table.add_row(Text(item.name), Text(item.label), f"{item.confidence:.1%}")
    output.say(table)


def show_components(rows: list[dict[str, Any]], output: Output) -> None:
    kind = None
    for row in rows:
        output.emit(row)
        if row["field"] != kind:
            kind = row["field"]
            output.say(Text.assemble("\n", (kind, "bold"), f"  ({row['kind']})"))
        output.say(Text.assemble("  ", (row["name"], "cyan"), f"  {row['summary']}"))
        for parameter in row["parameters"]:
            default = "required" if parameter["required"] else f"default {parameter['default']}"
            usual = f", usual range {parameter['range']}" if parameter["range"] else ""
            output.say(f"      {parameter['name']}: {parameter['type']}, {default}{usual}")
        if row["published"] is not None:
            output.say(Text(f"      published: {_settings(row['published'])}", style="dim"))


def show_plan(plan: "LayerPlan", output: Output) -> None:
    """One row a layer, from the input to the head."""
    config = plan.config
    output.emit(plan.summary())
    table = Table("layer", header_style="bold", pad_edge=False)
    for name in ("parameters", "learned", "learning rate", "from epoch", "from progress"):
        table.add_column(name, justify="right")
    for layer in plan.layers:
        rates = [f"{rate:.2e}" for rate in dict.fromkeys(layer.rates) if rate > 0]
        size = f"{layer.num_parameters:,}" if layer.num_parameters else "–"
        if layer.first_phase is None:
            table.add_row(layer.name, size, "", "frozen" if layer.num_parameters else "–", "", "", style="dim")
        else:
            first = plan.phases[layer.first_phase]
            learned, progress = f"{layer.num_learned:,}", f"{first.from_progress:.0%}"
            table.add_row(layer.name, size, learned, " then ".join(rates), str(first.from_epoch), progress)
    total = sum(layer.num_parameters for layer in plan.layers)
    trained = sum(layer.num_learned for layer in plan.layers if layer.trains)
    share = f"{trained:,} of {total:,} parameters train ({trained / total:.1%})"
    output.say(f"{config.backbone}, method {config.method}: {share}, {config.epochs} epochs")
    output.say(f"optimizer {config.optimizer}, lr_schedule {config.lr_schedule}, unfreezing {config.unfreezing}")
    output.say(table)
    if plan.restart is not None:
        output.say(
            f"from {plan.restart.from_progress:.0%} on {config.method.name} begins anew, with learning rates times "
            f"{plan.restart.rate:g}"
        )


def push_dashboards(
    output: Output, url: str, token: str | None, user: str | None, password: str | None, dry_run: bool, check: bool
) -> None:
    """Push, and show every difference; exactly one of a token and a user with a password must be given."""
    from ray_tl.observability.grafana import push

    if (token is None) == (user is None or password is None):
        raise InvalidInput("--token (or $GRAFANA_TOKEN) is missing; give it, or --user with --password, not both.")
    for action in push(url, token or (str(user), str(password)), dry_run=dry_run, check=check):
        output.emit({"subject": action.subject, "verb": action.verb, "differences": list(action.differences)})
        output.say(str(action))


def annotate_promotion(version: "PromotedVersion", url: str, token: str, output: Output) -> None:
    """Mark a promotion on the dashboards; a Grafana that does not answer takes nothing back."""
    from ray_tl.observability.grafana import Grafana

    try:
        Grafana(url, token).annotate(f"promoted {version.name} {version.version}", [version.name])
    except RayTLError as error:
        output.say(f"not marked in Grafana: {error}")


def _doctor_lines(trials: "Sequence[TrialRecord]") -> list[str]:
    """Each finding about the last epoch of a trial once, with all trials of which it is found."""
    found: dict[str, list[str]] = {}
    for trial in trials:
        for finding in trial.last.findings if trial.last else ():
            found.setdefault(finding, []).append(str(trial.number))
    return [
        f"doctor: trial{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}: {finding}"
        for finding, numbers in found.items()
    ]


def _settings(published: Mapping[str, Any]) -> str:
    """The settings of a component's authors in a line."""
    stated = {**published["params"], **published["trial"]}
    inside = ", ".join(f"{key} {json.dumps(value)}" for key, value in stated.items())
    return f"{inside or 'its defaults'} ({published['source']})"


def _next_step(status: StudyStatus) -> str:
    name = f"{status.spec.name}{status.command_options}"
    if status.is_running:
        return f"it is running; follow it with: ray-tl watch {name}"
    champion = f"champion: trial {status.champion}: {status.reason}\n" if status.champion is not None else ""
    if status.is_interrupted:
        return f"{champion}it was interrupted; go on with: ray-tl search --resume {name}"
    return f"{champion}promote it with: ray-tl promote {name}"
