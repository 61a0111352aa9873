"""One trial, whole: everything that decides what is trained, and nothing about where."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from ray_tl.registry import Value

ROUNDING_OF_SHARES = 1e-6
FREEZE_PRESET = re.compile(r"head_only|everything|last_[1-9][0-9]*")


def _freeze_depth(value: object) -> object:
    """As pydantic would say it, once: it has two complaints about a union."""
    if isinstance(value, str):
        if FREEZE_PRESET.fullmatch(value):
            return value
        rule = "Input should be a number of stages, or head_only, last_1, last_2, ..., everything"
        raise PydanticCustomError("freeze_depth", rule)
    if not isinstance(value, int) or isinstance(value, bool):
        raise PydanticKnownError("int_type")
    if value < 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 0})
    return value


Whole = Annotated[int, Field(strict=True)]  # no `true`, no 3.0, no "3"
Number = Annotated[float, Field(strict=True)]  # a whole one too
FreezeDepth = Annotated[int | str, BeforeValidator(_freeze_depth)]


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
        freeze_depth: Stages frozen, counted from the input; the backbone's number of stages means "head only". Or what
            fits any backbone: `head_only`, `last_K` (the last K stages with parameters train) or `everything`.
        trained_stages: Stages that train, from `freeze_depth` on; those behind them are frozen too. `None` for all.
        parameter_efficient: What trains of these stages: all weights, or a few new ones.
        lr_multipliers: Learning rate of each stage and of the head, relative to the optimiser's.
        unfreezing: Depth as a function of progress, ending at `freeze_depth`.
        regulariser: What joins the losses to keep of the pretrained network what transfers.
        label_smoothing: Share of each label that the task loss spreads over all classes, in [0, 1).
        dropout: Share of the features that is hidden from the head in training, in [0, 1).
        gradient_masking: What becomes of adaptation gradients that oppose the task's.
        loss_weighting: Weights of the losses `task`, `domain`, `consistency`, `reconstruction` over progress.
        mixing: Of source examples with one another, in training.
        class_balance: What is done about classes of the source that are much rarer than others.
        test_time_augmentation: Views over which predictions are averaged, in validation and when served.
        transfer: Way from source to target: at once, or over intermediate domains.
        multi_task: Another labelled task that trains the same layers.
        max_gradient_norm: The norm of all gradients together is scaled down to it before each step; `None` for never.
        accumulation: Micro-batches of each step, in which `batch_size` is gone through one after the other.
        precision: Of the network in training: `fp32`, or `bf16` or `fp16` where that is safe (autocast).
        averaging: Of weights over steps or epochs; what is evaluated and promoted is the average.
        early_stopping: Whether a trial may end before full fidelity, by label-free scores.
        target_label_weight: Share of labelled target examples in the task loss, in [0, 1]; counts where there are some.
        target_shares: Share of each class in the target, in the order of the classes, if it is known or was estimated
            before; methods that ask for diverse predictions ask for this diversity. `None` for even ones.
        batch_size: Examples of each domain in one step, over all workers of the trial.
        epochs: Passes over the source at full fidelity; progress 1 is reached at their end.
        min_steps: So many steps of the optimiser at least, in as many epochs: an epoch in which the head alone trains,
            on cached features, is longer than one pass over a small source. `None` for one pass always.
        seed: Every random number of the trial derives from it.
        initial_seed: Of the new weights that the trial begins with, where several share them; `None` for `seed`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Component
    features: Component = Component(name="last")
    adaptor: Component = Component(name="none")
    domain_norm: Component = Component(name="shared")
    freeze_depth: FreezeDepth = 0
    trained_stages: Whole | None = Field(default=None, ge=1)
    parameter_efficient: Component = Component(name="none")
    lr_multipliers: Component = Component(name="uniform")
    unfreezing: Component = Component(name="fixed")
    method: Component = Component(name="source_only")
    regulariser: Component = Component(name="none")
    label_smoothing: Number = Field(default=0.0, ge=0, lt=1)
    dropout: Number = Field(default=0.0, ge=0, lt=1)
    gradient_masking: Component = Component(name="none")
    loss_weighting: Component = Component(name="constant")
    transfer: Component = Component(name="direct")
    multi_task: Component = Component(name="none")
    optimizer: Component = Component(name="adamw")
    lr_schedule: Component = Component(name="cosine")
    max_gradient_norm: Number | None = Field(default=1.0, gt=0)
    augmentation: Component = Component(name="none")
    mixing: Component = Component(name="none")
    class_balance: Component = Component(name="none")
    test_time_augmentation: Component = Component(name="none")
    accumulation: Whole = Field(default=1, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    averaging: Component = Component(name="none")
    early_stopping: Component = Component(name="never")
    target_label_weight: Number = Field(default=0.5, ge=0, le=1)
    target_shares: tuple[Number, ...] | None = None
    batch_size: Whole = Field(default=64, ge=2)
    epochs: Whole = Field(default=10, ge=1)
    min_steps: Whole | None = Field(default=None, ge=1)
    seed: Whole = Field(default=0, ge=0)
    initial_seed: Whole | None = Field(default=None, ge=0)

    @field_validator("target_shares")
    @classmethod
    def _shares(cls, shares: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if shares is None or (min(shares, default=-1) >= 0 and abs(sum(shares) - 1) <= ROUNDING_OF_SHARES):
            return shares
        raise ValueError(f"must be at least 0 and add up to 1, not to {sum(shares):.7g}; divide each by their sum")


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
