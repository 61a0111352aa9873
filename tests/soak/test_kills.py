"""The soak, as small as it goes: `make soak` still runs, and what it finds is in its report."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.ray
def test_a_search_whose_worker_is_killed_passes_the_soak(tmp_path):
    report = tmp_path / "report.md"
    command = [sys.executable, "-m", "tests.soak.kills", "--kills", "1", "--trials", "4", "--seed", "3"]
    done = subprocess.run(
        [*command, "--limit-s", "300", "-o", str(report)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = report.read_text()
    assert "**Every trial is final and counted once**" in said
    assert "| worker | 1 |" in said
    assert "- Trials: 4 of 4 asked for" in said
