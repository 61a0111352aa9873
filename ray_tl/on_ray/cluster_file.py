"""Where a search runs: the cluster file, and the token that guards it."""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from ray_tl.errors import all_at_once
from ray_tl.registry import did_you_mean
from ray_tl.yaml_files import read_yaml

TOKEN_PATH = Path("~/.ray/auth_token")
_TOKEN_VARIABLES = frozenset({"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"})
OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


class ClusterConfig(BaseModel):
    """Where a search runs, and what each of its trials takes of it.

    Attributes:
        address: Of a running Ray, `"auto"` or `"host:6379"`; `None` starts Ray on this machine.
        num_cpus: Cores given to the Ray that is started here; `None` for all.
        num_gpus: GPUs given to the Ray that is started here; `None` for all.
        workers_per_trial: Size of a slot's DDP worker group.
        cpus_per_worker: May be a fraction.
        gpus_per_worker: May be a fraction; `auto` for one where the cluster has GPUs, and none where it has not.
        max_slots: Most trials at a time; `None` for as many as free resources allow.
        wait_for_room_s: How long to wait for room for a first trial, on a cluster that others use or that grows.
        lease_s: A trial whose workers give no sign of life for so long goes on elsewhere.
        hang_s: So does one whose workers live, but do no step.
        env: Environment variables of every worker process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    address: str | None = Field(default=None, min_length=1)
    num_cpus: int | None = Field(default=None, ge=1)
    num_gpus: int | None = Field(default=None, ge=0)
    workers_per_trial: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    max_slots: int | None = Field(default=None, ge=1)
    wait_for_room_s: float = Field(default=1800, ge=0)
    lease_s: float = Field(default=60, ge=5)
    hang_s: float = Field(default=900, ge=5)
    env: dict[str, str] = Field(default_factory=dict)

    @field_validator("num_cpus", "num_gpus")
    @classmethod
    def _only_for_a_ray_started_here(cls, value: int | None, info: ValidationInfo) -> int | None:
        address = info.data.get("address")
        if value is not None and address is not None:
            raise ValueError(f"a Ray that runs already (address={address!r}) has its own; remove it or the address")
        return value


def load_cluster(path: Path | str) -> ClusterConfig:
    """The cluster described by a YAML file.

    Raises:
        InvalidInput: If the file can't be read or breaks a rule; the message lists every mistake.
    """
    stated = read_yaml(Path(path), "`field: value` lines; see cluster/local.yaml")
    try:
        return ClusterConfig.model_validate(stated)
    except ValidationError as error:
        raise all_at_once(str(path), map(_problem, error.errors())) from None


def secure_auth_token() -> Path | None:
    """See to it that only its owner can read the token of a Ray that is started here; call it before `ray.init()`.

    Ray 2.60 would write `~/.ray/auth_token` with the permissions of any file, so this makes the token first.

    Returns:
        Ray's token file, or `None` if there is none because the environment names another token or no authentication.
    """
    path = TOKEN_PATH.expanduser()
    if not path.exists() and _TOKEN_VARIABLES.isdisjoint(os.environ):
        _create_token(path)
    if not path.exists():
        return None
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        path.chmod(OWNER_ONLY)
    return path


def _create_token(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent)  # readable by its owner only
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):  # another process was faster; its token stays
        os.link(draft, path)
    os.unlink(draft)


def _problem(error: ErrorDetails) -> str:
    name, kind, rule = ".".join(map(str, error["loc"])), error["type"], error["msg"]
    if kind == "extra_forbidden":
        return f"{name!r} is no field{did_you_mean(name, list(ClusterConfig.model_fields))}"
    remedy = "; put it in quotes" if kind == "string_type" else ""
    rule = rule.removeprefix("Value error, ")
    return f"{name}={error['input']!r} is wrong: {rule[0].lower()}{rule[1:]}{remedy}."
