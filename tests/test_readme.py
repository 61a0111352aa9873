"""Every command of the README runs; `make test` is what runs this."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHELL = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def environment(home: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "RAY_TL_HOME": str(home), "PYTHONPATH": str(ROOT), "PIP_NO_INPUT": "1"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a checkout has, in which commands may leave files."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("search_spaces", "cluster", "dashboards"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_quickstart_and_test_are_the_two_make_commands_of_the_readme():
    assert SHELL[0].split("\n")[:2] == ["make quickstart", "make test"]
    dry = ["make", "--no-print-directory", "-n", "-o", ".venv/installed", "quickstart"]
    # Without the variables that an outer `make test` hands down.
    plan = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert plan.stdout.strip() == ".venv/bin/ray-tl quickstart"


@pytest.mark.ray
def test_every_shell_block_and_then_every_python_block_runs(workplace, tmp_path):
    python = tmp_path / "readme.py"
    python.write_text("\n".join(PYTHON))
    last_resort = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"
    blocks = [block.replace("kill $server\n", "kill $server\nwait $server  # must end well\n") for block in SHELL[1:]]
    script = "\n".join(["set -euo pipefail", last_resort, *blocks, f"python {python}"])
    run = subprocess.run(
        ["bash", "-c", script], cwd=workplace, env=environment(tmp_path), capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    assert '"version":"v1"' in run.stdout.replace(" ", "")
    assert "version='v1'" in run.stdout
