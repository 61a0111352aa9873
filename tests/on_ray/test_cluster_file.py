import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ray_tl.errors import InvalidInput
from ray_tl.on_ray.cluster_file import ClusterConfig, load_cluster, secure_auth_token

START_RAY = """
import sys, ray
ray.init(num_cpus=1, _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1], include_dashboard=False)
assert ray.get(ray.remote(lambda: 7).remote()) == 7
ray.shutdown()
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_stated_fields_are_read_and_the_rest_are_defaults(write):
    config = load_cluster(write("workers_per_trial: 2\ngpus_per_worker: 0.5\nenv: {OMP_NUM_THREADS: '1'}\n"))
    assert config == ClusterConfig(workers_per_trial=2, gpus_per_worker=0.5, env={"OMP_NUM_THREADS": "1"})
    assert config.address is None


def test_every_mistake_of_a_file_is_told_at_once(write):
    text = "worker_per_trial: 2\ncpus_per_worker: 0\nmax_slots: many\naddress: auto\nnum_cpus: 4\nenv: {THREADS: 1}\n"
    with pytest.raises(InvalidInput, match="5 problems") as caught:
        load_cluster(write(text))
    message = str(caught.value)
    assert "did you mean 'workers_per_trial'?" in message
    assert "cpus_per_worker=0 is wrong: input should be greater than 0." in message
    assert "max_slots='many'" in message
    assert "num_cpus=4 is wrong: a Ray that runs already (address='auto') has its own" in message
    assert "env.THREADS=1 is wrong: input should be a valid string; put it in quotes." in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("address: [", "not valid YAML"),
        ("- a\n- b\n", "see cluster/local.yaml"),
        ("", "see cluster/local.yaml"),
        ("workers_per_trial: 0", "workers_per_trial=0"),
        ("workers_per_trial: true", "workers_per_trial=True"),
        ("cpus_per_worker: .nan", "cpus_per_worker=nan"),
        ("address: ''", "address=''"),
        ("num_cpus: 0", "num_cpus=0"),
    ],
)
def test_broken_file_is_one_clear_error(write, text, message):
    with pytest.raises(InvalidInput, match=message):
        load_cluster(write(text))


def test_missing_file_is_one_clear_error(tmp_path):
    with pytest.raises(InvalidInput, match="No such file"):
        load_cluster(tmp_path / "none.yaml")


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        ClusterConfig().max_slots = 3


def test_token_is_made_readable_by_its_owner_only(home):
    path = secure_auth_token()
    assert path == home / ".ray" / "auth_token"
    assert _mode(path) == 0o600
    assert len(path.read_text()) == 64
    assert os.listdir(path.parent) == ["auth_token"]


def test_token_that_ray_wrote_for_everyone_is_tightened_and_kept(home):
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("ray's own")
    path.chmod(0o644)
    assert secure_auth_token() == path
    assert (_mode(path), path.read_text()) == (0o600, "ray's own")


def test_token_that_is_tight_already_is_left_alone(home):
    secure_auth_token().chmod(0o400)
    assert _mode(secure_auth_token()) == 0o400


@pytest.mark.ray
def test_local_ray_starts_with_the_token_made_here_and_leaves_it_tight(home):
    token = secure_auth_token().read_text()
    with tempfile.TemporaryDirectory(prefix="rtl", ignore_cleanup_errors=True) as folder:
        subprocess.run([sys.executable, "-c", START_RAY, folder], check=True, timeout=120)
    path = home / ".ray" / "auth_token"
    assert (_mode(path), path.read_text()) == (0o600, token)


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_no_token_is_made_where_the_environment_decides(home, monkeypatch, name):
    monkeypatch.setenv(name, "disabled")
    assert secure_auth_token() is None
    assert not Path("~/.ray").expanduser().exists()
