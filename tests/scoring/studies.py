"""A finished study on real folders or tables, without Ray: its trials left the predictions that they are told to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ray_tl.planning.plan import load_places
from ray_tl.search_space import DataOptions
from ray_tl.study.records import DataSource, TrialState
from ray_tl.study.store import StudyStore
from ray_tl.training.files import TrialFiles
from tests.examples import BASELINE, epoch, spec

CLASSES = ("cat", "dog", "eel")
OPTIONS = DataOptions(image_size=8, channels=1)
TRUTH = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2)
"""Of the ten examples of either target domain."""


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)


def write_folders(root: Path) -> None:
    """`source` in class folders; `new` and `test`, ten images each in one folder, of equal names."""
    for number, name in enumerate(CLASSES):
        for copy in range(3):
            write_image(root / "source" / name / f"{copy}.png", 10 * number + copy)
    for row in range(10):
        write_image(root / "new" / f"{row}.png", 100 + row)
        write_image(root / "test" / f"{row}.png", 200 + row)


def write_sorted(root: Path, first_seed: int, labels: Sequence[int] = TRUTH) -> Path:
    """The images of a target domain once more, in class folders and under other names."""
    for row, label in enumerate(labels):
        write_image(root / CLASSES[label] / f"copy-{row}.png", first_seed + row)
    return root


def certain(classes: Sequence[int], num_classes: int = 3) -> np.ndarray:
    """Softmax outputs that predict these classes, [N, C]."""
    sure = np.eye(num_classes, dtype=np.float32)[list(classes)]
    return 0.8 * sure + 0.2 / num_classes


def study(home: Path, data: DataSource, predictions: Sequence[Sequence[int]], champion: int | None = 1) -> StudyStore:
    """A trial for each list of predicted classes, the same in both target domains; the first is source-only."""
    pair = load_places(data, 0).pair
    fields = {"data": data, "classes": pair.source.classes, "data_fingerprint": pair.fingerprint()}
    stated = spec("pets", [BASELINE] * len(predictions)).model_copy(update=fields)
    store = StudyStore.create(home / "studies" / "pets", stated)
    for number, classes in enumerate(predictions):
        store.ask()
        store.add_epoch(number, epoch(9), 1)
        store.finish(number, TrialState.COMPLETE)
        recorded = certain(classes, pair.num_classes)
        tested = {} if pair.target_test is None else {"target_test": recorded}
        TrialFiles(store.folder, number).save_evidence({"target": recorded, **tested})
    if champion is not None:
        store.write_json("champion.json", {"trial": champion, "reason": "best", "candidates": []})
    return store
