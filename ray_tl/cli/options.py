"""Options that several verbs share, each said once."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="JSON lines on stdout, everything else on stderr.")]
Home = Annotated[
    Path | None,
    typer.Option(help="Folder of studies and models; default $RAY_TL_HOME, else ~/.ray_tl. On a cluster: shared."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="RAY_TL_STORAGE",
        help="PostgreSQL database that keeps the studies, postgresql://user@host/database; default: their folders.",
        metavar="ADDRESS",
    ),
]
Artifacts = Annotated[
    str | None,
    typer.Option(
        help="Where all nodes can write checkpoints and evidence, such as s3://bucket/ray_tl; the study remembers it. "
        "Default: its folder, which all nodes must share then.",
        metavar="ADDRESS",
    ),
]
Study = Annotated[str, typer.Argument(help="Name of a study; see them all with: ray-tl status", metavar="STUDY")]
Address = Annotated[str | None, typer.Option(help="Of a Ray cluster that is up; default: start a local one.")]
Source = Annotated[
    str | None,
    typer.Option(
        help="Labelled domain: a folder with one folder of images for each class, or a table; also at an address that "
        "pyarrow.fs knows, such as s3://bucket/photos."
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Unlabelled domain: a folder of images, whose folders mean nothing, or a table; also an address."
    ),
]
TargetTest = Annotated[
    str | None,
    typer.Option(help="Target examples that no trial trains on; every trial's predictions on them are recorded."),
]
TargetLabelled = Annotated[
    str | None, typer.Option(help="Class folders with a few target examples, whose labels may be trained on.")
]
Intermediate = Annotated[
    list[str] | None,
    typer.Option(help="Folder of a domain between source and target; again for the next. For transfer: staged."),
]
Auxiliary = Annotated[
    str | None, typer.Option(help="Class folders of another task that trains the same layers, for multi_task.")
]
Shots = Annotated[
    int | None, typer.Option(min=1, help="Use this many labelled target examples for each class; default: all.")
]
LabelsFor = Annotated[
    str | None,
    typer.Option(
        help="Use of the labelled target examples: training (default); choice of the champion alone, so that no trial "
        "is shown their labels; or both, half of each class.",
        metavar="training|choice|both",
    ),
]
OnBroken = Annotated[str | None, typer.Option(help="Unreadable images or rows: stop or skip.", metavar="stop|skip")]
OnOverlap = Annotated[
    str | None,
    typer.Option(
        help="Training examples that --target-test has too: stop, skip them, or stop for exact copies alone.",
        metavar="stop|skip|exact",
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option(
        help="Never put on both sides of the hold-out: group: near copies, and rows with the same value in a column "
        "called group; folder: images of one folder; COLUMN: rows with the same value. Default: exact copies.",
        metavar="group|folder|COLUMN",
    ),
]
SplitByTime = Annotated[
    str | None, typer.Option(help="Hold out the latest rows by this column of the source.", metavar="COLUMN")
]
TargetClasses = Annotated[
    str | None,
    typer.Option(
        help="Class shares of the target: same as the source's, subset of its classes, unknown, or "
        "known: cat=0.3,dog=0.7.",
        metavar="same|subset|unknown|CLASS=SHARE,...",
    ),
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port of the HTTP address, on 127.0.0.1.")]
