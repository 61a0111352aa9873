"""A search on two image folders, from the command line alone, and what its choice was worth.

    python tests/benchmarks/emoji_search.py [--trials 16] [--space FILE] [--data FOLDER] [--home FOLDER] [--name emoji]
                                            [--json]

Runs `ray-tl search search_spaces/image_folders.yaml` on emoji of one vendor as source and of another as target, then
`promote` and `predict`. Only when all of it is over are the names of the class folders of the held-out target read.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from emoji import prepare

from ray_tl import api
from ray_tl.api import StudyStatus
from ray_tl.data.images import list_images
from ray_tl.study.records import TrialRecord
from ray_tl.training.files import TrialFiles

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "search_spaces" / "image_folders.yaml"


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="emoji-") as name:
        data, home = options.data or Path(name) / "data", options.home or Path(name) / "home"
        source, target = prepare(data, options.source), prepare(data, options.target)
        seconds = search(options.space, source, target, options.trials, options.name, home)
        study = api.status(options.name, home)
        accuracies = {trial.number: accuracy_of(study, trial, target / "test") for trial in study.trials}
        result = {
            "trials": len(study.trials),
            "seconds": round(seconds, 1),
            "source_only": accuracies[0],
            "champion": accuracies[study.champion],
            "best_at_full_fidelity": max(accuracies[trial.number] for trial in study.trials if trial.at_full_fidelity),
            "predicted_by_promoted": accuracy_of_promoted(options.name, target / "test", home),
            "load_before": options.load,
        }
    print(json.dumps(result) if options.json else "\n".join(f"{key:24}{value}" for key, value in result.items()))


def search(space: Path, source: Path, target: Path, trials: int, name: str, home: Path) -> float:
    started = time.monotonic()
    folders = ["--source", source / "train", "--target", target / "train", "--target-test", target / "test"]
    folders += ["--on-overlap", "skip"]  # some flags are one drawing for two emoji
    run("search", space, *folders, "--trials", trials, "--name", name, "--home", home)
    return time.monotonic() - started


def run(*arguments: object) -> str:
    command = [sys.executable, "-c", "from ray_tl.cli import main; main()", *map(str, arguments)]
    return subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout


def accuracy_of(study: StudyStatus, trial: TrialRecord, folder: Path) -> float:
    """Share of held-out target images that the trial's recorded predictions name rightly."""
    predicted = TrialFiles(study.folder, trial.number).load_evidence()["target_test"].argmax(axis=1)
    pairs = zip(predicted, list_images(folder), strict=True)
    return float(np.mean([study.spec.classes[row] == Path(file).parts[0] for row, file in pairs]))


def accuracy_of_promoted(name: str, folder: Path, home: Path) -> float:
    run("promote", name, "--home", home)
    answers = map(json.loads, run("predict", name, folder, "--home", home).splitlines())
    return float(np.mean([answer["label"] == Path(answer["file"]).parent.name for answer in answers]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--space", type=Path, default=SPACE)
    parser.add_argument("--source", default="google")
    parser.add_argument("--target", default="twitter")
    parser.add_argument("--data", type=Path, help="where the emoji are, or shall be kept")
    parser.add_argument("--home", type=Path, help="where the study shall be kept")
    parser.add_argument("--name", default="emoji", help="of the study")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(namespace=argparse.Namespace(load=os.getloadavg()))


if __name__ == "__main__":
    main()
