"""What processes import decides how long a search takes to start: each import is paid for by every process."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("does", "without"),
    [
        ("import ray_tl.on_ray.trial_queue", ("torch", "ray.train", "scipy.optimize")),
        ("import ray_tl.on_ray.client_trial, ray_tl.on_ray.lean_trainer", ("torch", "scipy.optimize")),
        ("from ray_tl.training.optimisation import adamw\nadamw()", ("torch._dynamo",)),
    ],
)
def test_processes_of_a_search_import_no_more_than_they_need(does, without):
    code = f"import sys\n{does}\nprint(*[name for name in {without} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == ""
