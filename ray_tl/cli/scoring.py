"""The verbs that read true classes of a target, once a search is over."""

from typing import Annotated

import typer

from ray_tl.cli.options import Home, Json, Storage, Study
from ray_tl.cli.output import Output


def evaluate(
    study: Study,
    labels: Annotated[
        str,
        typer.Option(
            help="True classes: a folder with one folder of images for each class, a table with a column of labels, "
            "or digits:optdigits. Some of the examples are enough."
        ),
    ],
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial as it was; default: the champion as it is promoted.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(help="Which domain the labels are of; default: where they fit.", metavar="target|target_test"),
    ] = None,
    home: Home = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Score a finished search on true target labels: was the champion a good choice?

    ray-tl evaluate STUDY --labels photos/new-sorted

    ray-tl evaluate STUDY --labels labels.csv --on target_test

    Images are found by their pixels and texts by their words, as far as the
    labels hold them; else by a column path, or id (of a target that is a
    table: the number of the row, from 1). Columns are named as in the study.

    Shows accuracy with a 95 % interval, recall of each class, calibration,
    the difference to source-only on the same examples, and the regret: by
    how many points the best finished trial is better. The result goes into
    the ledger (ray-tl ledger): no search and no promotion reads it.
    """
    from ray_tl import api
    from ray_tl.cli.scoring_views import show_evaluation

    output = Output(as_json)
    with output.working("reading the data and the labels ..."):
        found = api.evaluate(study, labels, trial, on, home, storage)
    show_evaluation(found, output)


def ledger(home: Home = None, storage: Storage = None, as_json: Json = False) -> None:
    """How good the choices of past searches were: a row for each study that was scored.

    Score one with ray-tl evaluate. Regret: by how many points of accuracy the
    best finished trial beats the champion. A study that was scored on both
    domains is shown on target_test. With --json, the last line holds totals.
    """
    from ray_tl import api
    from ray_tl.cli.scoring_views import show_ledger

    show_ledger(api.ledger(home, storage), Output(as_json))
