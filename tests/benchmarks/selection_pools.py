"""Pools of trained candidates, good ones and bad ones, for `selection.py` to choose from.

    python tests/benchmarks/selection_pools.py FOLDER [--pairs 'google>twitter' ...] [--balances same half long]
        [--candidates 10] [--data FOLDER]

For every pair of domains, and for three class balances of its target, some thirty candidates of all families are
trained: frozen features and fine-tunes, alignment, adversarial and confidence methods, classical probes, and settings
that do harm (rates and weights far too high, confidence without diversity). Checkpoints are kept in FOLDER/trials, so
that what is trained once is never trained again; evidence is made from them, and the true classes of the target are
kept beside it, for `selection.py` alone.

Balances: `same` is the target as it is, `half` holds half of its classes, `long` is cut so that the class at one end is
ten times as frequent as that at the other, with shares that fall geometrically. Two classes can't be halved: there
`half` is ten to one for the other class.
"""

import argparse
import csv
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emoji import prepare
from numpy.typing import NDArray

from ray_tl.config import TrialConfig
from ray_tl.data.digits import load_mnist_5k, load_optdigits
from ray_tl.data.domains import DomainPair, LabelledDomain, UnlabelledDomain
from ray_tl.data.images import list_images
from ray_tl.data.load import load_pair
from ray_tl.data.preprocessing import Preprocessing
from ray_tl.data.sentiment import FILM, PRODUCT, balanced, fetch_archive, read_sentences
from ray_tl.data.splits import stratified_split
from ray_tl.search_space import DataOptions
from ray_tl.selection import ByAgreement, SelectionContext
from ray_tl.training.data import TrialData
from ray_tl.training.files import State, TrialFiles
from ray_tl.training.loop import train_trial

HOLDOUT_FRACTION, SEED = 0.2, 0
BALANCES = ("same", "half", "long")
RATIO = 10
VENDORS = ("google", "twitter", "emojione")
PAIRS = (
    "mnist>optdigits",
    "optdigits>mnist",
    "google>twitter",
    "twitter>google",
    "google>emojione",
    "emojione>twitter",
    "film>product",
    "product>film",
)
Fields = dict[str, Any]


@dataclass(frozen=True)
class Domains:
    """A pair of domains with the true classes of its target, int64 [M], which no trial is shown."""

    pair: DomainPair
    truth: NDArray[np.int64]

    def balanced(self, balance: str) -> "Domains":
        rows = rows_of(self.truth, self.pair.num_classes, balance)
        return Domains(replace(self.pair, target=self.pair.target.take(rows)), self.truth[rows])


def rows_of(truth: NDArray[np.int64], num_classes: int, balance: str) -> NDArray[np.int64]:
    """Rows of a target that have this balance of classes."""
    rng = np.random.default_rng(SEED)
    if balance == "same":
        return np.arange(len(truth))
    order = rng.permutation(num_classes)
    if balance == "half" and num_classes > 2:
        return np.flatnonzero(np.isin(truth, order[: num_classes // 2]))
    order = order[::-1] if balance == "half" else order
    wanted = RATIO ** -(np.arange(num_classes) / (num_classes - 1))
    counts = np.bincount(truth, minlength=num_classes)[order]
    scale = (counts / wanted).min()
    rows = [
        rng.permutation(np.flatnonzero(truth == each))[: max(1, round(scale * share))]
        for each, share in zip(order, wanted, strict=True)
    ]
    return np.sort(np.concatenate(rows))


def load_domains(name: str, data: Path) -> Domains:
    source, target = name.split(">")
    if source in VENDORS:
        return _emoji(prepare(data, source), prepare(data, target))
    if source in ("film", "product"):
        return _sentences(source, target, data)
    load = {"mnist": load_mnist_5k, "optdigits": load_optdigits}
    preprocessing = Preprocessing(image_size=16, channels=1)
    training, holdout = stratified_split(load[source](preprocessing), HOLDOUT_FRACTION, SEED)
    other = load[target](preprocessing)
    return Domains(DomainPair(training, holdout, _unlabelled(other), preprocessing), other.labels)


def _emoji(source: Path, target: Path) -> Domains:
    options = DataOptions(image_size=96, channels=3, holdout_fraction=HOLDOUT_FRACTION)
    pair = load_pair(str(source / "train"), str(target / "test"), None, options, SEED)
    classes = {name: row for row, name in enumerate(pair.source.classes)}
    truth = [classes[Path(name).parts[0]] for name in list_images(target / "test")]
    return Domains(pair, np.array(truth))


def _sentences(source: str, target: str, data: Path) -> Domains:
    names, folder = {"film": FILM, "product": PRODUCT}, data / "sentences"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "archive.tar.gz"
    if not archive.exists():
        archive.write_bytes(fetch_archive())
    labelled, unlabelled = folder / f"{source}.csv", folder / f"{target}-target.csv"
    _write(labelled, ("text", "label"), balanced(read_sentences(archive.read_bytes(), names[source]), 1200))
    rows = balanced(read_sentences(archive.read_bytes(), names[target]), 600)
    _write(unlabelled, ("text",), [(text,) for text, _ in rows])
    options = DataOptions(modality="text", max_length=64, holdout_fraction=HOLDOUT_FRACTION)
    pair = load_pair(str(labelled), str(unlabelled), None, options, SEED)
    return Domains(pair, np.array([int(label == "positive") for _, label in rows]))


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _unlabelled(domain: LabelledDomain) -> UnlabelledDomain:
    return UnlabelledDomain(domain.name, domain.inputs, domain.ids)


# What a method that looks at no target gives is the same for every target: it is trained once for a source.
TARGETLESS = {"source_only", "logistic", "nearest_mean", "knn", "random_forest"}


def candidates(modality: str, is_pretrained: bool) -> list[Fields]:
    """Fields of `TrialConfig` of every candidate, source-only first."""
    if not is_pretrained:
        return [{**_DIGITS, **fields} for fields in _from_scratch()]
    base = _EMOJI if modality == "images" else _TEXTS
    return [{**base, **fields} for fields in [*_frozen(), *_fine_tuned(modality)]]


def some(all_of_them: list[Fields], count: int | None) -> list[Fields]:
    """So many from the first to the last, evenly; all of them where no number is given."""
    if count is None:
        return all_of_them
    return [all_of_them[place] for place in np.linspace(0, len(all_of_them) - 1, count).astype(int)]


_EMOJI: Fields = {"backbone": "efficientnet_lite0", "freeze_depth": "head_only", "epochs": 30}
_TEXTS: Fields = {"backbone": "minilm", "freeze_depth": "head_only", "epochs": 15}
_DIGITS: Fields = {
    "backbone": {"small_cnn": {"width": 16}},
    "optimizer": {"adamw": {"lr": 6e-3}},
    "augmentation": {"affine": {"scale": 0.3, "degrees": 12}},
    "epochs": 6,
}
_RISING: Fields = {"loss_weighting": {"linear": {"domain": 1.0}}, "adaptor": "bottleneck"}
_RECIPE: Fields = {**_RISING, "label_smoothing": 0.1}


def _adamw(rate: float) -> Fields:
    return {"optimizer": {"adamw": {"lr": rate}}}


def _weight(value: float) -> Fields:
    return {"loss_weighting": {"constant": {"domain": value}}}


def _frozen() -> Iterator[Fields]:
    yield {}
    yield {"adaptor": "bottleneck", "label_smoothing": 0.1}
    yield {"adaptor": "bottleneck", **_adamw(0.05)}
    yield {"method": {"logistic": {"C": 1.0}}}
    yield {"method": {"logistic": {"C": 0.001}}}
    yield {"method": "nearest_mean"}
    yield {"method": "knn"}
    yield {"method": "random_forest"}
    yield {"method": "coral_closed"}
    yield {"method": "subspace_alignment"}
    yield {"method": "kernel_mean_matching", "adaptor": "bottleneck"}
    for method in ("im", "bnm", "mcc"):
        yield {**_RECIPE, "method": method}
        yield {"method": method, **_weight(1.0)}
    for method in ("im", "bnm"):
        yield {**_RECIPE, "method": method, "epochs": 100}
    yield {"method": "im", "adaptor": "bottleneck", **_weight(5.0)}
    yield {"method": "bnm", "adaptor": "bottleneck", **_weight(10.0)}
    yield {**_RECIPE, "method": {"mcc": {"temperature": 1.0}}, "loss_weighting": {"linear": {"domain": 3.0}}}
    yield {"method": "entropy", "adaptor": "bottleneck", **_weight(2.0)}
    for method in ("coral", "mmd", "jan", "dann", "cdan_e", "mdd", "afn"):
        yield {**_RISING, "method": method}
    yield {"method": "dann", "adaptor": "bottleneck", **_weight(10.0)}
    yield {"method": "mmd", "adaptor": "bottleneck", **_weight(10.0)}
    yield {**_RISING, "method": "pseudo_label"}
    yield {**_RISING, "method": "dann_mcc"}
    yield {**_RISING, "method": "deepjdot"}


def _fine_tuned(modality: str) -> Iterator[Fields]:
    few = {"epochs": 3 if modality == "text" else 6}
    gentle, harsh = (3e-5, 5e-4) if modality == "text" else (3e-4, 5e-3)
    for rate in (gentle, harsh):
        yield {"freeze_depth": "everything", **_adamw(rate), **few}
    last = {"freeze_depth": "last_2" if modality == "images" else "last_1", **few, **_adamw(gentle)}
    yield last
    yield {**last, "regulariser": "l2_sp", "unfreezing": "probe_then_fine_tune"}
    yield {**last, "averaging": "wise_ft", "unfreezing": "probe_then_fine_tune"}
    for method in ("im", "dann", "mcc"):
        yield {**last, "method": method, "loss_weighting": {"linear": {"domain": 1.0}}}


def _from_scratch() -> Iterator[Fields]:
    yield {"augmentation": "none"}
    yield {}
    yield {"label_smoothing": 0.1, "adaptor": "bottleneck"}
    yield {"augmentation": "none", **_adamw(0.05)}
    yield {"augmentation": "heavy"}
    yield {**_adamw(3e-4)}
    yield {"augmentation": "none", "method": "adabn"}
    yield {"augmentation": "none", "domain_norm": "separate", "method": "coral", **_weight(1.0)}
    for method in ("im", "bnm", "mcc"):
        yield {**_RECIPE, "method": method}
        yield {"augmentation": "none", "method": method, **_weight(1.0)}
    yield {"method": "im", **_weight(5.0)}
    yield {"method": "bnm", **_weight(10.0)}
    yield {**_RECIPE, "method": {"mcc": {"temperature": 1.0}}, "loss_weighting": {"linear": {"domain": 3.0}}}
    yield {"method": "entropy", **_weight(2.0)}
    for method in ("coral", "mmd", "jan", "dann", "cdan_e", "mdd", "afn"):
        yield {**_RISING, "method": method}
    yield {"method": "dann", **_weight(10.0)}
    yield {"method": "mmd", **_weight(10.0)}
    yield {**_RISING, "method": "pseudo_label"}
    yield {**_RISING, "method": "dann_mcc"}
    yield {**_RISING, "method": "deepjdot"}
    yield {**_RISING, "method": "mcd"}
    yield {**_RISING, "method": "dann", "augmentation": "none"}


class _LastCheckpoint(TrialFiles):
    """Writes nothing but the checkpoint of the end."""

    def save_checkpoint(self, state: State) -> None:
        if "optimizer" not in state:
            super().save_checkpoint(state)

    def save_evidence(self, arrays: object) -> None: ...

    def save_space(self, space: object) -> None: ...


def trained(fields: Fields, name: str, balance: str, data: TrialData, folder: Path) -> tuple[TrialConfig, Path]:
    """The configuration and the checkpoint of a candidate, which is trained if it is not there."""
    config = TrialConfig.model_validate(fields)
    source, target = name.split(">")
    looks_at = (
        "" if config.method.name in TARGETLESS and config.domain_norm.name == "shared" else f" {target} {balance}"
    )
    key = hashlib.sha256(f"{config.model_dump_json()} {source}{looks_at}".encode()).hexdigest()[:16]
    path = folder / "trials" / f"{key}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="trial-", dir=path.parent) as temporary:
            files = _LastCheckpoint(Path(temporary), 0)
            train_trial(config, data, lambda report: False, files, rule_for(data))
            files.checkpoint.rename(path)
    return config, path


def rule_for(data: TrialData) -> ByAgreement:
    """For trials whose choice comes later."""
    shares = np.bincount(data.pair.source.labels, minlength=data.pair.num_classes) / len(data.pair.source)
    return ByAgreement(SelectionContext(data.pair.source.classes, tuple(shares), num_target=len(data.pair.target)))


def build(name: str, folder: Path, data: Path, balances: Sequence[str], count: int | None) -> None:
    """Train what is missing of the pools of a pair, of `count` candidates or of all.

    A candidate that can't be trained is told and left out.
    """
    whole = load_domains(name, data)
    is_pretrained = name.split(">")[0] not in ("mnist", "optdigits")
    for balance in balances:
        domains = whole.balanced(balance)
        trial_data = TrialData(domains.pair, torch.device("cpu"))
        pool = []
        for fields in some(candidates(whole.pair.modality, is_pretrained), count):
            started = time.monotonic()
            try:
                config, path = trained(fields, name, balance, trial_data, folder)
            except Exception as error:
                print(f"{name} {balance} {fields}: {type(error).__name__}: {error}", flush=True)
                continue
            pool.append({"config": config.model_dump(mode="json"), "checkpoint": path.name})
            print(f"{name} {balance} {config.method} {time.monotonic() - started:.1f} s", flush=True)
        if not pool:
            raise SystemExit(f"{name} {balance}: no candidate could be trained")
        place = folder / f"{name}-{balance}"
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / "truth.npy", domains.truth)
        (place / "pool.json").write_text(json.dumps(pool))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=PAIRS)
    parser.add_argument("--balances", nargs="+", choices=BALANCES, default=BALANCES)
    parser.add_argument("--candidates", type=int, help="of each pool, evenly chosen; all by default")
    parser.add_argument("--data", type=Path, help="where the emoji are, or shall be kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.pairs:
        data = options.data or options.folder / "data"
        build(name, options.folder, data, options.balances, options.candidates)


if __name__ == "__main__":
    main()
