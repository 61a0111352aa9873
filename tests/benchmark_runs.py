"""Runs of the scripts in `tests/benchmarks/`, and drawings for them that anybody can tell apart."""

import io
import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

FOLDER = Path(__file__).parent / "benchmarks"
PEERS = ("skada", "pytorch_adapt", "fastai", "selection_peers")
COLOURS = {"Animals": (220, 40, 40), "Flags": (40, 200, 40), "Food": (40, 60, 220)}

SMALL_SPACE = """
data: {image_size: 32, channels: 3}
search: {num_trials: 1, epochs: 4, min_steps: 40, refit: null}
trial: {backbone: efficientnet_lite0, freeze_depth: head_only, optimizer: {adamw: {lr: 0.01}}}
"""


def printed(script: str, *arguments: object) -> str:
    """What a script prints, run in this process as if from a command line: imports take longer than all the rest.

    Other libraries count as not installed, whether they are or not.
    """
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), _as_many_threads(), redirect_stdout(output):
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        patch.syspath_prepend(str(FOLDER))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in (*PEERS, *(name for name in sys.modules if name.split(".")[0] in PEERS)):
            patch.setitem(sys.modules, name, None)
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    return output.getvalue()


def printed_apart(script: str, *arguments: object) -> str:
    """What a script prints in a process of its own, as one must that starts Ray; other libraries as they are."""
    command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def last_json(output: str) -> dict:
    """The last line that is a JSON object."""
    return json.loads(next(line for line in reversed(output.splitlines()) if line.startswith("{")))


def drawn_emoji(folder: Path) -> Path:
    """What `emoji.prepare` leaves, as small as a hold-out with neighbours of each class allows.

    Classes are colours, slightly noisy and in the target slightly brighter: whatever looks at them names all rightly.
    """
    for place, vendor in enumerate(("google", "twitter")):
        for part, num_each in (("train", 30), ("test", 15)):
            random = np.random.default_rng([place, num_each])
            for name, colour in COLOURS.items():
                (folder / vendor / part / name).mkdir(parents=True)
                for number in range(num_each):
                    pixels = np.array(colour) + random.integers(-5, 6, (8, 8, 3)) + 4 * place
                    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                    image.resize((64, 64)).save(folder / vendor / part / name / f"{number}.png")
    return folder


@contextmanager
def _as_many_threads() -> Iterator[None]:
    """Scripts set the number of threads; whatever comes after them has its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
