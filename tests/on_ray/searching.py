"""Small real searches, whose trials stand still where a test wants them to."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image

from ray_tl.study.records import TrialRecord, TrialState

SPACE = {
    "data": {"image_size": 16, "channels": 3},
    "search": {"num_trials": 4, "epochs": 12, "grace_epochs": 4, "refit": None},
    "trial": {
        "backbone": "tiny_cnn",
        "freeze_depth": {"int": [0, 1]},
        "method": {"choice": {"source_only": None, "mcc": {"temperature": "auto"}, "coral": None}},
        "optimizer": {"adamw": {"lr": {"log_uniform": [1e-3, 1e-2]}}},
        "augmentation": {"choice": ["none", "flip_crop"]},
    },
}

HELD = """
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

class Held(torch.nn.Flatten):
    def __init__(self, folder, world_size):
        super().__init__()
        self.folder, self.world_size, self.steps = Path(folder), world_size, 0

    def forward(self, x):
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        if self.training and not x.is_meta and world_size == self.world_size:
            self.steps += 1
            while self.steps == 3 and not self.may_go():
                (self.folder / f"waits-{os.getpid()}").touch()
                time.sleep(0.05)
        return super().forward(x)

    def may_go(self):
        once = self.folder / f"go-{os.getpid()}"
        if once.exists():
            once.unlink()
            return True
        return (self.folder / "go").exists()

def build(folder, world_size):
    stem = torch.nn.Sequential(Held(folder, world_size), torch.nn.Linear(3 * 16 * 16, 8))
    return torch.nn.Sequential(stem, torch.nn.Linear(8, 8))
"""


def squares(folder: Path) -> tuple[Path, Path]:
    """Red and blue squares in class folders, and darker ones without labels."""
    random = np.random.default_rng(0)
    for name, channel in (("red", 0), ("blue", 2)):
        for number in range(40):
            for domain, light in (("source", 230), ("target", 120)):
                pixels = random.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                pixels[4:12, 4:12, channel] = light
                place = folder / domain / (name if domain == "source" else "unlabelled")
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place / f"{name}-{number}.png")
    return folder / "source", folder / "target"


def held_space(folder: Path, world_size: int, **search: object) -> Path:
    """A space whose trials, where so many ranks train, stand still in the middle until there is a file `go`.

    A file `go-PID` lets the trial go on that stands still in that process, and no further one.
    """
    (folder / "held.py").write_text(HELD)
    backbone = {"held": {"folder": str(folder), "world_size": world_size}}
    trial = {**SPACE["trial"], "backbone": backbone, "freeze_depth": 0}
    path = folder / "held.yaml"
    path.write_text(yaml.safe_dump({**SPACE, "backbones": {"held": "held.py:build"}, "search": search, "trial": trial}))
    return path


def that_wait(folder: Path, count: int, goes_on: Callable[[], bool] = lambda: True) -> list[psutil.Process]:
    """So many living processes, once they stand still in the middle of a trial."""
    deadline = time.monotonic() + 300
    while len(found := _alive(folder)) < count:
        assert goes_on()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def wait_until(holds: Callable[[], object], limit_s: float = 300) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def epochs_of(trial: TrialRecord) -> list[int]:
    return [epoch.epoch for epoch in trial.epochs]


def require_whole(trials: list[TrialRecord], num_trials: int) -> None:
    """Every trial once, ended well, with each of its epochs once and in order."""
    assert [trial.number for trial in trials] == list(range(num_trials))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert all(epochs_of(trial) == list(range(1, len(trial.epochs) + 1)) for trial in trials)


def _alive(folder: Path) -> list[psutil.Process]:
    pids = [int(path.name.removeprefix("waits-")) for path in sorted(folder.glob("waits-*"))]
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [process for process in found if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)]
