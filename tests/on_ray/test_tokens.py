"""Clusters that want a token, joined from a process that has it and from one that has not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.on_ray.clusters import end_processes_of, free_port, own_address

pytestmark = pytest.mark.ray

TOKEN = "a" * 64
JOIN = """
import sys
from ray_tl.errors import NoResources
from ray_tl.on_ray.cluster_file import ClusterConfig
from ray_tl.on_ray.session import ray_session
try:
    with ray_session(ClusterConfig(address=sys.argv[1])):
        print("joined")
except NoResources as error:
    print(error)
"""


def joined(address: str, home: Path, **environment: str) -> str:
    unset = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address],
        env={**unset, "HOME": str(home), **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    return done.stdout.strip()


def test_a_cluster_with_a_token_is_joined_with_it_and_without_it_the_message_says_what_is_missing(tmp_path):
    folder, address = os.environ["RAY_TMPDIR"], f"{own_address()}:{free_port()}"
    assert "nobody listens there); is the cluster up?" in joined(address, tmp_path)
    with_token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", f"--port={address.rpartition(':')[2]}"]
    command += ["--num-cpus=1", f"--temp-dir={folder}", "--include-dashboard=false"]
    try:
        subprocess.run(command, check=True, env={**os.environ, **with_token}, stdout=subprocess.DEVNULL, timeout=120)
        assert joined(address, tmp_path, **with_token) == "joined"
        said = joined(address, tmp_path)
    finally:
        end_processes_of(Path(folder))
    assert said.startswith(f"address='{address}' can't be reached")
    assert "copy the head's ~/.ray/auth_token here or put its token into $RAY_AUTH_TOKEN" in said
