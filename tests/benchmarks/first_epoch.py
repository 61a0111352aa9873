"""How long from the command to the first epoch: a whole `ray-tl search`, a process of its own.

    python tests/benchmarks/first_epoch.py [--runs 3] [--against CHECKOUT] [--json]

Each run searches the packaged digits with two trials, and is ended by Ctrl-C once the first epoch is reported. Noted
are the seconds from the start of the command until the study is planned and until the first epoch, and the processor
time of the command until then (Ray's processes, which are its children, included). With `--against`, a checkout of an
earlier version is measured in turn with this one, so that both meet the same noise; the ratio is of medians.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

HERE = Path(__file__).parents[2]
MARKS = {"planned": "study", "first_epoch": "epoch"}


@dataclass(frozen=True)
class Run:
    """One command.

    Attributes:
        planned_s: Until the study was planned.
        first_epoch_s: Until its first epoch was reported.
        processor_s: Of all of its processes until then.
    """

    planned_s: float
    first_epoch_s: float
    processor_s: float


def main() -> None:
    options = _parse()
    checkouts = {"now": HERE, **({"before": options.against.resolve()} if options.against else {})}
    with tempfile.TemporaryDirectory(prefix="first-epoch-") as folder:
        _sample(Path(folder))
        runs: dict[str, list[Run]] = {name: [] for name in checkouts}
        for number in range(options.runs):
            for name, checkout in checkouts.items():
                runs[name].append(measured(checkout, Path(folder), f"{name}-{number}"))
                print(f"{name}: {runs[name][-1]}", file=sys.stderr)
    report(runs, options.json)


def measured(checkout: Path, folder: Path, study: str) -> Run:
    """Start a search of this checkout's, and end it after its first epoch."""
    arguments = ["search", str(checkout / "search_spaces" / "digits.yaml"), "--trials", "2", "--json"]
    arguments += ["--source", str(folder / "data" / "source"), "--target", str(folder / "data" / "target")]
    arguments += ["--name", study, "--home", str(folder / "home")]
    began, seconds = time.monotonic(), {}
    search = subprocess.Popen(
        [sys.executable, "-m", "ray_tl", *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert search.stdout is not None
    for line in search.stdout:
        event = json.loads(line).get("event")
        for mark, name in MARKS.items():
            if event == name:
                seconds.setdefault(mark, time.monotonic() - began)
        if len(seconds) == len(MARKS):
            break
    processor = _processor_s(search.pid)
    search.send_signal(signal.SIGINT)
    _, errors = search.communicate(timeout=120)
    if len(seconds) < len(MARKS):
        raise SystemExit(f"the search ended without an epoch: {errors[-2000:]}")
    return Run(seconds["planned"], seconds["first_epoch"], processor)


def _processor_s(pid: int) -> float:
    found = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    times = [process.cpu_times() for process in found if process.is_running()]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def _sample(folder: Path) -> None:
    command = [sys.executable, "-m", "ray_tl", "sample-data", str(folder / "data"), "--per-class", "100"]
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, cwd=HERE, env={**os.environ, "PYTHONPATH": str(HERE)}
    )


def report(runs: dict[str, list[Run]], as_json: bool) -> None:
    fields = ("planned_s", "first_epoch_s", "processor_s")
    found: dict[str, object] = {
        name: {field: round(_median(of, field), 1) for field in fields} for name, of in runs.items()
    }
    if "before" in runs:
        ratio = _median(runs["now"], "first_epoch_s") / _median(runs["before"], "first_epoch_s")
        found["first_epoch_ratio"] = round(ratio, 2)
    if as_json:
        print(json.dumps(found))
        return
    for name, values in found.items():
        print(f"{name}: {values}")


def _median(runs: Sequence[Run], field: str) -> float:
    return statistics.median(getattr(run, field) for run in runs)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--json", action="store_true", help="figures as one JSON line")
    return parser.parse_args()


if __name__ == "__main__":
    main()
