"""What the adaptation methods are worth: beside other libraries on the same features, and in whole trials.

    python tests/benchmarks/adaptation.py [--part features|trials] [--methods mcc bnm] [--seeds 3] [--out FOLDER]

features  On frozen EfficientNet-Lite0 features of emoji, google to twitter: each method that can train a bottleneck and
          a head on fixed features, and beside it the same method of `pytorch-adapt` and `skada`, on the same batches.
          Fitted on the images of even code points of both vendors, scored on the odd ones of the target. About 20
          minutes on one core for three seeds.
trials    Whole trials, `train_trial` in this process: emoji google to twitter on a frozen backbone, and digits both
          ways, method by method beside source-only. About 80 minutes on one core for one seed.

Settings are fixed in `adaptation_features.py` and `adaptation_trials.py`. Labels of the target are read for the final
accuracy and for nothing else, and nothing stops early. Defaults were tuned on these pairs, and on no others.

The other libraries come with `pip install -e '.[bench]'` and then `pip install --no-deps pytorch-adapt==0.0.83`, which
asks for an older torchmetrics than it needs; without them ours runs alone. Results are kept after every row in
FOLDER/results.json, and a row that is there is not computed again; FOLDER/results.md has the tables. Times are of one
thread, taken in turn within one run; for figures worth quoting let nothing else run.
"""

import argparse
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from adaptation_features import comparable_methods, compare, compare_closed_form, load_features
from adaptation_peers import available_peers, solving_peers
from adaptation_trials import load_task, run_trial
from emoji import prepare

from ray_tl.adaptation import METHODS
from ray_tl.adaptation.closed_form import CLOSED_FORM
from ray_tl.errors import InvalidInput

SOURCE, TARGET = "google", "twitter"
OURS = "ray_tl"
TASKS = (f"{SOURCE}>{TARGET}", "mnist>optdigits", "optdigits>mnist")
# Closed-form methods, too, which train nothing that could be compared step for step.
SOLVED = [name for name in CLOSED_FORM.names() if name != "zero_shot"]
TRIAL_METHODS = [*comparable_methods(), *SOLVED]
ANCHORS = {  # accuracy in % to reach, and by what
    f"{SOURCE}>{TARGET}": ((54.0, "best of five classical methods of skada"), (60.0, "frozen features with BNM")),
    "mnist>optdigits": ((95.0, "digits"),),
    "optdigits>mnist": ((95.0, "digits"),),
}
TARGET_SUPERVISED = "72 % for a head trained on labels of the target"
LIKE = {  # who normalises so
    "batch": ("skada",),
    "own_batch": ("pytorch-adapt",),
    "separate": ("pytorch-adapt",),
    "layer": ("pytorch-adapt", "skada"),
}
DEFAULT_SEEDS = {"features": 3, "trials": 1}


class Results:
    """Rows by key in a JSON file, written anew, under another name first, after each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, dict] = json.loads(path.read_text()) if path.is_file() else {}

    def add(self, key: str, row: dict) -> None:
        self.rows[key] = row
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(self.rows, indent=1, sort_keys=True))
        new.replace(self._path)

    def of(self, *prefix: str) -> list[dict]:
        start = "|".join((*prefix, ""))
        return [row for key, row in sorted(self.rows.items()) if key.startswith(start)]


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "results.json")
    parts = {"features": run_features, "trials": run_trials}
    try:
        for part in options.part:
            parts[part](options, options.seeds or DEFAULT_SEEDS[part], results)
    except InvalidInput as error:
        sys.exit(str(error))
    text = "\n".join(tables(results))
    (options.out / "results.md").write_text(text + "\n")
    print(text)


def run_features(options: argparse.Namespace, num_seeds: int, results: Results) -> None:
    peers, missing = available_peers()
    print(*missing, sep="\n")
    emoji = _emoji(options)
    features, test_labels = load_features(emoji, SOURCE, TARGET, options.out / "features.npz")
    wanted = product(options.norm, _chosen(options.methods, comparable_methods()), range(num_seeds))
    for norm, name, seed in wanted:
        having = {library: peers[library][name] for library in LIKE[norm] if name in peers.get(library, {})}
        key = f"features|{norm}|{name}|{seed}"
        if {OURS, *having} <= set(results.rows.get(key, {})):
            continue
        row = compare(name, features, seed, norm, having, test_labels)
        results.add(key, row)
        told = (f"{library} {100 * one['accuracy']:.1f} % {one['step_ms']:.2f} ms" for library, one in row.items())
        print(f"features  {norm:9} {name:22} seed {seed}: {', '.join(told)}", flush=True)
    solving = solving_peers()
    for name in _chosen(options.methods, SOLVED):
        if not {OURS, *(["skada"] if name in solving else [])} <= set(results.rows.get(f"solved|{name}", {})):
            results.add(f"solved|{name}", compare_closed_form(name, features, solving.get(name), test_labels))


def run_trials(options: argparse.Namespace, num_seeds: int, results: Results) -> None:
    emoji = _emoji(options)
    for task_name in options.tasks:
        wanted = list(product(_chosen(options.methods, TRIAL_METHODS), range(num_seeds)))
        wanted = [one for one in wanted if f"trials|{task_name}|{one[0]}|{one[1]}" not in results.rows]
        task = load_task(task_name, emoji) if wanted else None
        for name, seed in wanted:
            row = run_trial(task, name, seed)
            results.add(f"trials|{task_name}|{name}|{seed}", row)
            told = f"{100 * row['accuracy']:.1f} % after {row['seconds']:.1f} s"
            print(f"{task_name}  {name:22} seed {seed}: {told}", flush=True)


def tables(results: Results) -> Iterator[str]:
    """Both parts in Markdown, as far as there are rows."""
    for norm in LIKE:
        yield from _features_table(results, norm)
    yield from _solved_table(results)
    yield from _trials_table(results)


def _features_table(results: Results, norm: str) -> Iterator[str]:
    compared = [name for name in comparable_methods() if results.of("features", norm, name)]
    if not compared:
        return
    yield f"## Methods on fixed features, {SOURCE} to {TARGET}, {norm} normalisation in the bottleneck\n"
    yield f"Accuracy in % on the held-out target (mean ± standard error over seeds); {TARGET_SUPERVISED}.\n"
    yield "| method | seeds | ray_tl | ms a step | library | theirs | ms a step | ours / theirs | verdict |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in compared:
        rows = results.of("features", norm, name)
        ours = [row[OURS] for row in rows]
        start = f"| {name} | {len(rows)} | {_shown(ours)} | {_step_ms(ours):.2f} |"
        libraries = [library for library in rows[0] if library in LIKE[norm]]
        for library in libraries:
            theirs = [row[library] for row in rows if library in row]
            ratio = _step_ms(ours) / _step_ms(theirs)
            times = f"{_step_ms(theirs):.2f} | {ratio:.2f}"
            yield f"{start} {library} | {_shown(theirs)} | {times} | {_verdict(ours, theirs)} |"
        if not libraries:
            yield f"{start} none compared | | | | |"
    yield ""


def _solved_table(results: Results) -> Iterator[str]:
    rows = {name: row for name in SOLVED if (row := results.rows.get(f"solved|{name}"))}
    if not rows:
        return
    yield f"## Closed-form methods on the same features, {SOURCE} to {TARGET}\n"
    yield "Accuracy in % on the held-out target with ten seeds, and milliseconds to solve and predict.\n"
    yield "| method | ray_tl | ms | skada | ms | ours / theirs |"
    yield "|---|---|---|---|---|---|"
    for name, row in rows.items():
        ours, theirs = row[OURS], row.get("skada")
        shown = f"| {name} | {_solved(ours)} | {ours['step_ms']:.0f} |"
        if theirs is None:
            yield f"{shown} not compared | | |"
        else:
            ratio = ours["step_ms"] / theirs["step_ms"]
            yield f"{shown} {_solved(theirs)} | {theirs['step_ms']:.0f} | {ratio:.2f} |"
    yield ""


def _solved(row: dict) -> str:
    return _shown([{"accuracy": accuracy} for accuracy in row["accuracies"]])


def _trials_table(results: Results) -> Iterator[str]:
    tasks = [name for name in TASKS if results.of("trials", name)]
    if not tasks:
        return
    yield "## Whole trials\n"
    yield "Accuracy in % on the held-out target, the gain over source-only in points, and seconds a trial; those of the"
    yield "first trial of a run on emoji include the activations of the frozen stages.\n"
    yield f"| method | {' | '.join(f'{name} | gain | s' for name in tasks)} |"
    yield "|---|" + "---|---|---|" * len(tasks)
    for name in TRIAL_METHODS:
        cells = [_trial_cells(results, task, name) for task in tasks]
        if any(cells):
            yield f"| {name} | {' | '.join(cell or ' | | ' for cell in cells)} |"
    yield ""
    for task in tasks:
        yield from _anchor_lines(results, task)


def _trial_cells(results: Results, task: str, name: str) -> str:
    rows, baseline = results.of("trials", task, name), results.of("trials", task, "source_only")
    if not rows:
        return ""
    gain = f"{_mean(rows) - _mean(baseline):+.1f}" if baseline else ""
    return f"{_shown(rows)} | {gain} | {sum(row['seconds'] for row in rows) / len(rows):.1f}"


def _anchor_lines(results: Results, task: str) -> Iterator[str]:
    means = {name: _mean(rows) for name in TRIAL_METHODS if (rows := results.of("trials", task, name))}
    for least, what in ANCHORS[task]:
        passing = ", ".join(f"{name} {mean:.1f}" for name, mean in means.items() if mean >= least)
        yield f"- {task}, {least:.0f} % ({what}): {passing or 'no method passes'}."


def _verdict(ours: list[dict], theirs: list[dict]) -> str:
    """Whether ours is at least as accurate, within a standard error of the difference, and no slower a step."""
    if len(ours) < 2 or len(theirs) < 2:
        return "needs two seeds"
    allowed = math.hypot(_standard_error(ours), _standard_error(theirs))
    accurate = _mean(ours) >= _mean(theirs) - allowed
    fast = _step_ms(ours) <= _step_ms(theirs)
    if accurate and fast:
        return "holds"
    return " and ".join([*([] if accurate else ["less accurate"]), *([] if fast else ["slower"])])


def _shown(rows: list[dict]) -> str:
    return f"{_mean(rows):.1f}" + (f" ± {_standard_error(rows):.1f}" if len(rows) > 1 else "")


def _mean(rows: list[dict]) -> float:
    return 100 * sum(row["accuracy"] for row in rows) / len(rows)


def _standard_error(rows: list[dict]) -> float:
    if len(rows) < 2:
        return 0.0
    squares = sum((100 * row["accuracy"] - _mean(rows)) ** 2 for row in rows)
    return math.sqrt(squares / (len(rows) - 1) / len(rows))


def _step_ms(rows: list[dict]) -> float:
    """Mean over seeds of the median step."""
    return sum(row["step_ms"] for row in rows) / len(rows)


def _chosen(methods: list[str], possible: list[str]) -> list[str]:
    for name in methods:
        if name not in TRIAL_METHODS:
            METHODS.factory(name)
            raise InvalidInput(f"--methods {name} needs labels of the target or words; this benchmark has neither.")
    return [name for name in possible if name in methods] if methods else possible


def _emoji(options: argparse.Namespace) -> Path:
    folder = options.data or options.out / "emoji"
    for vendor in (SOURCE, TARGET):
        prepare(folder, vendor)
    return folder


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=["features", "trials"], default=["features", "trials"])
    parser.add_argument("--methods", nargs="+", default=[], metavar="NAME", help="all by default")
    parser.add_argument("--seeds", type=int, help="by default 3 for features and 1 for trials")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="of the trials")
    parser.add_argument(
        "--norm",
        nargs="+",
        choices=list(LIKE),
        default=["batch", "own_batch"],
        help="of the bottleneck for features: batch normalises both domains together, as trials do by default and "
        "skada always; own_batch each by its own batch, as pytorch-adapt does, and separate in evaluation, too; with "
        "layer domains are never mixed. Beside ours runs whoever does the same: equal formulas must score the same",
    )
    parser.add_argument("--data", type=Path, help="where the emoji are, or shall be kept; FOLDER/emoji by default")
    parser.add_argument("--out", type=Path, default=Path("out/adaptation"), metavar="FOLDER")
    return parser.parse_args()


if __name__ == "__main__":
    main()
