"""Weights from a hub on loopback, fetched over HTTP by the hub's own client, in processes with a cache of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models.hub_server import REVISION, hub
from tests.models.pretrained_texts import write_transformer

NAME = "bert-base-chinese"
FETCH = """
from ray_tl.errors import InvalidInput
from ray_tl.hub import model_folder
try:
    print(model_folder({name!r}, ("*.json", "*.safetensors", "*.bin"), "bert.weights"))
except InvalidInput as error:
    print("refused:", error)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    write_transformer(folder, "bert")
    (folder / "pytorch_model.bin").write_bytes(b"the same in a format that runs code")
    return folder


def fetched(cache: Path, address: str, name: str = NAME, **variables: str) -> str:
    """What a new process says."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(cache), "HF_ENDPOINT": address, "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
    code = FETCH.format(name=name)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_a_name_is_fetched_once_and_then_needs_no_hub(model, tmp_path):
    with hub(NAME, model) as (address, files):
        folder = Path(fetched(tmp_path / "cache", address))
        assert folder.name == REVISION
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
        assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
        assert "pytorch_model.bin" not in files  # safetensors are there
        files.clear()
        assert Path(fetched(tmp_path / "cache", address)) == folder
        assert files == []
    assert Path(fetched(tmp_path / "cache", address)) == folder


def test_a_file_that_changed_in_the_cache_is_found_out(model, tmp_path):
    with hub(NAME, model) as (address, _):
        folder = Path(fetched(tmp_path / "cache", address))
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    told = fetched(tmp_path / "cache", address)
    assert told.startswith("refused:")
    assert f"delete {blob}" in told


def test_a_fetch_that_broke_off_before_the_weights_goes_on(model, tmp_path):
    with hub(NAME, model) as (address, files):
        folder = Path(fetched(tmp_path / "cache", address))
        (folder / "model.safetensors").resolve().unlink()
        (folder / "model.safetensors").unlink()
        files.clear()
        assert Path(fetched(tmp_path / "cache", address)) == folder
        assert files == ["model.safetensors"]


def test_a_model_that_needs_a_token_is_fetched_with_that_of_the_environment(model, tmp_path):
    with hub("team/own", model, token="secret") as (address, _):
        told = fetched(tmp_path / "cache", address, "team/own")
        assert told.startswith("refused: bert.weights='team/own' is no folder here and can't be had from the hub (")
        assert "401" in told
        assert Path(fetched(tmp_path / "cache", address, "team/own", HF_TOKEN="secret")).name == REVISION


@pytest.mark.parametrize(
    ("variables", "reason"), [({}, "Connection refused"), ({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled")]
)
def test_without_a_hub_one_error_names_the_ways_out(variables, reason, tmp_path):
    told = fetched(tmp_path / "cache", "http://127.0.0.1:9", **variables)
    assert told.startswith(f"refused: bert.weights={NAME!r} is no folder here and can't be had from the hub (")
    assert reason in told
    assert told.endswith(f"give its folder, or copy it into {tmp_path / 'cache' / 'hub'}.")


def test_a_name_that_the_hub_does_not_have_is_refused(model, tmp_path):
    with hub(NAME, model) as (address, _):
        told = fetched(tmp_path / "cache", address, "bert-base-chinise")
    assert told.startswith("refused: bert.weights='bert-base-chinise' is no folder here")
    assert "404" in told
