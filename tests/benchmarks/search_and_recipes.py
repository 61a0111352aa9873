"""Does a search pay? Its champion beside recipes that one could have written down, on the same domains.

    python tests/benchmarks/search_and_recipes.py FOLDER [--pairs 'google>twitter' ...] [--balances same half long]
        [--trials 24] [--seeds 3] [--space FILE] [--steps 1200] [--epochs 10]

For every pair and balance of `selection_pools.py`: `ray_tl.api.search` with the search space that is shipped for such
data, and each fixed recipe on all of the source with `--seeds` seeds. The true classes of a target are read here alone,
when both are over. What a search and a recipe took in worker-seconds of training is beside their accuracies: a recipe
is one trial, so a search has many times its compute, and the best of the recipes can't be known without labels.

FOLDER gets domains, studies and results; what is there is not run again.
"""

import argparse
import csv
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from selection_pools import BALANCES, PAIRS, VENDORS, Domains, Fields, load_domains, rows_of, rule_for

from ray_tl import api
from ray_tl.config import TrialConfig
from ray_tl.data.domains import DomainPair, LabelledDomain
from ray_tl.data.images import list_images
from ray_tl.training.data import TrialData
from ray_tl.training.files import TrialFiles
from ray_tl.training.loop import train_trial

SPACES = Path(__file__).parents[2] / "search_spaces"
STEPS = 1200


@dataclass(frozen=True)
class Place:
    """A pair at one balance as a search is given it, and the true class of every target example, by name."""

    space: Path
    source: str
    target: str
    truth: NDArray[np.str_]


def place_of(name: str, balance: str, data: Path, domains: Domains) -> Place:
    """Files of a pair at a balance; the target is written once."""
    source, target = name.split(">")
    rows = rows_of(domains.truth, domains.pair.num_classes, balance)
    truth = np.array(domains.pair.source.classes)[domains.truth[rows]]
    where = data / "targets" / f"{name}-{balance}"
    if source in VENDORS:
        files = list_images(data / target / "test")
        return Place(
            SPACES / "image_folders.yaml",
            str(data / source / "train"),
            str(_copied(where, [data / target / "test" / files[row] for row in rows])),
            truth,
        )
    if domains.pair.modality == "text":
        kept, table = _rows_of(data / "sentences" / f"{target}-target.csv"), where.with_suffix(".csv")
        _write(table, [kept[row] for row in rows])
        return Place(SPACES / "text_sentiment.yaml", str(data / "sentences" / f"{source}.csv"), str(table), truth)
    images = _drawn(where, domains.pair.target.inputs[rows])
    return Place(SPACES / "digits.yaml", f"digits:{source}", str(images), truth)


def _copied(where: Path, files: list[Path]) -> Path:
    """Images without the names of their classes, in this order."""
    if not where.is_dir():
        with _anew(where) as folder:
            for number, file in enumerate(files):
                shutil.copy(file, folder / f"{number:05d}{file.suffix}")
    return where


def _drawn(where: Path, inputs: NDArray[np.uint8]) -> Path:
    if not where.is_dir():
        with _anew(where) as folder:
            for number, pixels in enumerate(inputs):
                Image.fromarray(pixels[0]).save(folder / f"{number:05d}.png")
    return where


@contextmanager
def _anew(where: Path) -> Iterator[Path]:
    """A folder that is there whole or not at all."""
    where.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=where.parent) as name:
        folder = Path(name) / "new"
        folder.mkdir()
        yield folder
        folder.rename(where)


def _rows_of(table: Path) -> list[str]:
    with table.open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def _write(table: Path, texts: list[str]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text",), *((text,) for text in texts)])


def searched(place: Place, name: str, home: Path, trials: int | None, seed: int) -> dict[str, object]:
    """What a search gives; true classes are looked at when it has ended."""
    started = time.monotonic()
    if not (home / "studies" / name).is_dir():
        api.search(place.space, place.source, place.target, None, name, {"num_trials": trials, "seed": seed}, home=home)
    seconds = time.monotonic() - started
    study = api.status(name, home)
    if study.champion is None:
        api.resume(name, home=home)
        study = api.status(name, home)
    classes = np.array(study.spec.classes)

    def accuracy(number: int) -> float:
        found = TrialFiles(study.folder, number).load_evidence()["target"].argmax(axis=1)
        return float((classes[found] == place.truth).mean())

    whole = {trial.number: accuracy(trial.number) for trial in study.trials if trial.at_full_fidelity}
    chosen = study.trials[study.champion]
    return {
        "champion": whole[study.champion],
        "method": chosen.config.method.name,
        "best": max(whole.values()),
        "source_only_trial": whole[0],
        "trials": len(study.trials),
        "training_s": sum(trial.cost_s for trial in study.trials),
        "seconds": seconds,
        "reason": study.reason,
    }


def recipes(pair: DomainPair, is_pretrained: bool, steps: int) -> Iterator[tuple[str, Fields]]:
    """Fixed recipes by name: fields of `TrialConfig`."""
    if not is_pretrained:
        base: Fields = {
            "backbone": {"small_cnn": {"width": 16}},
            "optimizer": {"adamw": {"lr": 6e-3}},
            "augmentation": {"affine": {"scale": 0.3, "degrees": 12}},
            "epochs": 6,
        }
        yield "source-only", base
        for method in ("im", "bnm", "mcc"):
            yield method.upper(), {**base, "method": method, "loss_weighting": {"linear": {"domain": 1.0}}}
        return
    text = pair.modality == "text"
    base = {"backbone": "minilm" if text else "efficientnet_lite0", "optimizer": {"adamw": {"lr": 1e-3}}}
    frozen = {**base, "freeze_depth": "head_only", "epochs": 10, "min_steps": steps, "batch_size": 64}
    yield "source-only", frozen
    bottleneck = {**frozen, "adaptor": "bottleneck", "label_smoothing": 0.1}
    yield "bottleneck head", bottleneck
    for method in ("im", "bnm", "mcc"):
        yield method.upper(), {**bottleneck, "method": method, "loss_weighting": {"linear": {"domain": 1.0}}}
    yield (
        "probe, then fine-tune (as fastai)",
        {
            **base,
            "freeze_depth": "everything",
            "unfreezing": {"probe_then_fine_tune": {"until": 0.25, "rate_after": 0.5}},
            "lr_multipliers": {"layer_decay": {"decay": 0.6}},
            "lr_schedule": "one_cycle",
            "optimizer": {"adamw": {"lr": 2e-4 if text else 2e-3}},
            "label_smoothing": 0.1,
            "epochs": 3 if text else 4,
        },
    )


def accuracies(fields: Fields, data: TrialData, truth: NDArray[np.int64], seeds: int) -> tuple[list[float], float]:
    """Accuracy of a recipe by seed, and worker-seconds of one run."""
    found, started = [], time.monotonic()
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            files = TrialFiles(Path(folder), 0)
            config = TrialConfig.model_validate({**fields, "seed": seed})
            train_trial(config, data, lambda report: False, files, rule_for(data))
            found.append(float((files.load_evidence()["target"].argmax(axis=1) == truth).mean()))
    return found, (time.monotonic() - started) / seeds


def with_all_of_the_source(pair: DomainPair) -> DomainPair:
    first, second = pair.source, pair.source_holdout
    whole = LabelledDomain(
        first.name,
        np.concatenate([first.inputs, second.inputs]),
        (*first.ids, *second.ids),
        np.concatenate([first.labels, second.labels]),
        first.classes,
    )
    return replace(pair, source=whole)


def compared(name: str, balance: str, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    path = folder / "results" / f"{name}-{balance}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"recipes": {}}
    domains = load_domains(name, options.data)
    balanced = domains.balanced(balance)
    path.parent.mkdir(parents=True, exist_ok=True)
    if "search" not in kept and not options.recipes_only:
        place = place_of(name, balance, options.data, domains)
        place = replace(place, space=options.space or place.space)
        study = f"{name.replace('>', '-to-')}-{balance}"
        kept["search"] = searched(place, study, folder / "home", options.trials, 0)
        path.write_text(json.dumps(kept, indent=1))
    data = TrialData(with_all_of_the_source(balanced.pair), torch.device("cpu"))
    is_pretrained = name.split(">")[0] not in ("mnist", "optdigits")
    for recipe, fields in recipes(balanced.pair, is_pretrained, options.steps):
        if recipe not in kept["recipes"]:
            fields = {**fields, "epochs": options.epochs or fields["epochs"]}
            found, seconds = accuracies(fields, data, balanced.truth, 1 if "fine-tune" in recipe else options.seeds)
            kept["recipes"][recipe] = {"accuracies": found, "training_s": seconds}
            path.write_text(json.dumps(kept, indent=1))
    return {"pair": name, "balance": balance, "num_target": len(balanced.truth), **kept}


def show(results: list[dict]) -> None:
    names = list(dict.fromkeys(recipe for each in results for recipe in each["recipes"]))
    print(f"{'':26}{'search':>8}{'best':>7}  " + "".join(f"{name[:12]:>13}" for name in names))
    for each in results:
        found = each.get("search", {"champion": math.nan, "best": math.nan})
        means = [np.mean(each["recipes"][name]["accuracies"]) if name in each["recipes"] else np.nan for name in names]
        label = f"{each['pair']} {each['balance']}"
        print(f"{label:26}{found['champion']:8.1%}{found['best']:7.1%}  " + "".join(f"{mean:13.1%}" for mean in means))
    print("standard error of an accuracy: " + ", ".join(sorted({_error(each) for each in results})))


def _error(each: dict) -> str:
    best = max(float(np.mean(recipe["accuracies"])) for recipe in each["recipes"].values())
    return f"{100 * math.sqrt(best * (1 - best) / each['num_target']):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--balances", nargs="+", choices=BALANCES, default=("same", "half"))
    parser.add_argument("--data", type=Path, help="where emoji and sentences are, or shall be kept")
    parser.add_argument("--trials", type=int, help="of each search; as many as its search space says by default")
    parser.add_argument("--seeds", type=int, default=3, help="of each recipe")
    parser.add_argument("--space", type=Path, help="instead of the one that is shipped for such data")
    parser.add_argument("--steps", type=int, default=STEPS, help="at least, of a recipe on frozen features")
    parser.add_argument("--epochs", type=int, help="of each recipe, instead of its own")
    parser.add_argument("--recipes-only", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.data = options.data or options.folder / "data"
    torch.set_num_threads(1)
    pairs = [(name, balance) for name in options.pairs for balance in options.balances]
    results = [compared(name, balance, options.folder, options) for name, balance in pairs]
    print(json.dumps(results)) if options.json else show(results)


if __name__ == "__main__":
    main()
