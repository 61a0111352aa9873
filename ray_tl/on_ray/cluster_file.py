"""Where a search runs: the cluster file, and the token that guards it."""

import os
import stat
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.registry import did_you_mean

TOKEN_PATH = Path("~/.ray/auth_token")
OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


class ClusterConfig(BaseModel):
    """Where a search runs, and what each of its trials takes of it.

    Attributes:
        address: Of a running Ray, `"auto"` or `"host:6379"`; `None` starts Ray on this machine.
        num_cpus: Cores given to the Ray that is started here; `None` for all.
        num_gpus: GPUs given to the Ray that is started here; `None` for all.
        workers_per_trial: Size of a slot's DDP worker group.
        cpus_per_worker: May be a fraction, as `gpus_per_worker`.
        max_slots: Most trials at a time; `None` for as many as free resources allow.
        env: Environment variables of every worker process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = None
    num_cpus: int | None = Field(default=None, ge=1)
    num_gpus: int | None = Field(default=None, ge=0)
    workers_per_trial: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: float = Field(default=0, ge=0)
    max_slots: int | None = Field(default=None, ge=1)
    env: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _resources_only_for_a_local_ray(self) -> "ClusterConfig":
        given = [name for name in ("num_cpus", "num_gpus") if getattr(self, name) is not None]
        if self.address is not None and given:
            raise ValueError(
                f"{' and '.join(given)} can't be set for a Ray that runs already at address={self.address!r}; "
                "remove them, or set address to null."
            )
        return self


def load_cluster(path: Path | str) -> ClusterConfig:
    """The cluster described by a YAML file.

    Raises:
        InvalidInput: If the file can't be read or breaks a rule; the message lists every mistake.
    """
    stated = _read(Path(path))
    try:
        return ClusterConfig.model_validate(stated)
    except ValidationError as error:
        raise all_at_once(
            str(path), [_problem(item["loc"], item["type"], item["msg"], item["input"]) for item in error.errors()]
        ) from None


def secure_auth_token() -> Path | None:
    """Make Ray's token file readable by its owner only, and return its path; `None` if there is no token file.

    Ray 2.60 writes `~/.ray/auth_token` with the permissions of any file. Call this after `ray.init()`.
    """
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or TOKEN_PATH).expanduser()
    if not path.is_file():
        return None
    if stat.S_IMODE(path.stat().st_mode) != OWNER_ONLY:
        path.chmod(OWNER_ONLY)
    return path


def _read(path: Path) -> dict[str, object]:
    try:
        stated = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} can't be read ({error.strerror}); give the path of a cluster file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(stated, dict):
        raise InvalidInput(f"{path} holds no `field: value` lines; see cluster/local.yaml.")
    return stated


def _problem(place: tuple[int | str, ...], kind: str, rule: str, value: object) -> str:
    name = ".".join(map(str, place))
    if kind == "extra_forbidden":
        return f"{name!r} is no field{did_you_mean(name, list(ClusterConfig.model_fields))}"
    if kind == "value_error":
        return rule.removeprefix("Value error, ")
    return f"{name}={value!r} is wrong: {rule[0].lower()}{rule[1:]}."
