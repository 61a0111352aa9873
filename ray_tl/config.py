"""One trial, whole: everything that decides what is trained, and nothing about where."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ray_tl.registry import Value


class Component(BaseModel):
    """A registered component by name, with its parameters.

    Reads `"mcc"`, `{"mcc": {"temperature": 2.5}}` and `{"name": "mcc", "params": {"temperature": 2.5}}`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON has no word for them

    name: str
    params: dict[str, Value] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "name" not in value and len(value) == 1:
            ((name, params),) = value.items()
            return {"name": name, "params": {} if params is None else params}
        return value

    def __str__(self) -> str:
        inside = ", ".join(f"{key}={_short(value)}" for key, value in self.params.items())
        return f"{self.name}({inside})" if inside else self.name


class UserFunction(BaseModel):
    """A person's own function, with the whole file that it is in, so that it is the same wherever it runs.

    Reads `"/home/me/my_models.py:build"`, and the file with it.

    Attributes:
        path: Of the file, as it was read.
        function: Its name there.
        source: All of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    function: str
    source: str

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        path, _, function = value.rpartition(":")
        if not path.endswith(".py") or not function.isidentifier():
            raise ValueError(f"{value!r} must name a file and a function in it, my_models.py:build")
        try:
            source = Path(path).expanduser().read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} can't be read ({error}); give the path of a Python file") from error
        return {"path": path, "function": function, "source": source}


class TrialConfig(BaseModel):
    """Configuration of one trial, frozen; `model_dump_json` and `model_validate_json` are exact inverses.

    Attributes:
        features: Stages of the backbone whose outputs become features.
        adaptor: Layers between features and head, in which domains are aligned.
        domain_norm: Statistics by which stages that train, and the adaptor, normalise each domain.
        freeze_depth: Stages frozen, counted from the input; the backbone's number of stages means "head only".
        lr_multipliers: Learning rate of each stage and of the head, relative to the optimiser's.
        unfreezing: Depth as a function of progress, ending at `freeze_depth`.
        loss_weighting: Weights of the losses `task`, `domain`, `consistency`, `reconstruction` over progress.
        target_label_weight: Share of labelled target examples in the task loss, in [0, 1]; counts where there are some.
        batch_size: Examples of each domain in one step, over all workers of the trial.
        epochs: Passes over the source at full fidelity; progress 1 is reached at their end.
        seed: Every random number of the trial derives from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Component
    features: Component = Component(name="last")
    adaptor: Component = Component(name="none")
    domain_norm: Component = Component(name="shared")
    freeze_depth: int = Field(default=0, ge=0)
    lr_multipliers: Component = Component(name="uniform")
    unfreezing: Component = Component(name="fixed")
    method: Component = Component(name="source_only")
    loss_weighting: Component = Component(name="constant")
    optimizer: Component = Component(name="adamw")
    lr_schedule: Component = Component(name="cosine")
    augmentation: Component = Component(name="none")
    target_label_weight: float = Field(default=0.5, ge=0, le=1)
    batch_size: int = Field(default=64, ge=2)
    epochs: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
