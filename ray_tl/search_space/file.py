"""A search-space file as bytes: read, and refused with everything that is wrong with it."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticKnownError

from ray_tl.config import Component, Number, UserFunction, Whole
from ray_tl.errors import InvalidInput
from ray_tl.search_space.explain import validated
from ray_tl.search_space.space import SearchSpace
from ray_tl.search_space.target_classes import TargetClasses
from ray_tl.yaml_files import read_yaml

_IMAGES_ALONE = ("image_size", "channels", "image_column")
_TEXT_ALONE = ("tokenizer", "max_length", "text_column")
NEEDED_VALIDATORS = ("source_accuracy", "im", "bnm")
JUDGE = ("neighbours", "nearest_labels")  # validators that confidence does not fool
MIN_STEPS = 1200  # 2.3 points better than 130 over methods and rates, worse in 2 of 11: tests/benchmarks/min_steps.py


def _no_equal(value: object) -> object:
    """A literal number would take what equals it, too: `true` for 1, and 3.0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise PydanticKnownError("literal_error", {"expected": "1 or 3"})
    return value


class DataOptions(BaseModel):
    """How files become a pair of domains.

    Attributes:
        modality: What the examples are; images are scaled to `image_size` and `channels`, texts cut to `max_length`.
        tokenizer: Of texts: `minilm` for the packaged one, a folder, a name on the hub, or a file of word vectors; that
            of the backbone.
        max_length: Tokens of a text, special ones included.
        text_column: Of tables of texts.
        image_column: Of tables of images: paths relative to the table, or the images themselves.
        label_column: Of tables with labels; that of a target is never read.
        holdout_fraction: Share of the source that is never trained on, for source accuracy.
        on_broken: What to do with an unreadable image or row.
        target_shots: k, labelled target examples a class that are drawn from those given; `null` for all of them.
        target_labels_for: What labelled target examples are used for: `training`; `choice` of the champion alone, so
            that no trial is shown their labels; or `both`, half of each class for either.
        split_by: What stays on one side of the hold-out: `group` for copies, near ones too, and rows that are equal in
            a column `group`; `folder` for images of one folder; else the name of a column of equal rows. `null` for
            exact copies alone.
        split_by_time: Column by which the latest rows are held out; `null` for rows at random.
        on_overlap: What to do with training examples of which `target_test` has a copy: `stop` with an error, `skip`
            them, or `exact`, stop for exact copies and count near ones.
        target_classes: What is known of the classes of the target: `unknown`, and their shares are estimated; `same`
            where they are the source's; `subset` where some of the source's may be absent; or the share of each by its
            name, `{cat: 0.3, dog: 0.7}`, 0 for a class that is left out.
        correct_predictions: `auto`: predictions of the champion are corrected to the class shares of the target where
            these are stated, or where their estimate differs from the source's beyond chance and the rule of choice
            finds them better so; `never`.
        reader_version: Rules by which files become examples; 1 are those of studies that were begun before there was a
            choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["images", "text"] = "images"
    image_size: Whole = Field(default=96, ge=8, le=1024)
    channels: Annotated[Literal[1, 3], BeforeValidator(_no_equal)] = 3
    tokenizer: str = "minilm"
    max_length: Whole = Field(default=128, ge=4, le=4096)
    text_column: str = "text"
    image_column: str = "image"
    label_column: str = "label"
    holdout_fraction: Number = Field(default=0.2, gt=0, lt=1)
    on_broken: Literal["stop", "skip"] = "stop"
    target_shots: Whole | None = Field(default=None, ge=1)
    target_labels_for: Literal["training", "choice", "both"] = "training"
    split_by: str | None = Field(default=None, min_length=1)
    split_by_time: str | None = Field(default=None, min_length=1)
    on_overlap: Literal["stop", "skip", "exact"] = "stop"
    target_classes: TargetClasses = "unknown"
    correct_predictions: Literal["auto", "never"] = "auto"
    reader_version: Literal[1, 2] = 2

    @field_validator("split_by_time")
    @classmethod
    def _one_way_to_split(cls, column: str | None, info: ValidationInfo) -> str | None:
        if column is not None and (other := info.data.get("split_by")) is not None:
            raise ValueError(f"it is another way to hold out than split_by={other!r}; leave one of the two out")
        return column

    @model_validator(mode="after")
    def _of_one_modality(self) -> Self:
        foreign = _IMAGES_ALONE if self.modality == "text" else _TEXT_ALONE
        if stated := [name for name in foreign if getattr(self, name) != type(self).model_fields[name].default]:
            raise ValueError(f"{', '.join(stated)} mean nothing for modality={self.modality!r}; leave them out")
        return self


class RefitOptions(BaseModel):
    """How the champion is trained again, on all of the source.

    Attributes:
        seeds: k, networks that are trained of a configuration.
        top: So many of the best trials, of different families of methods, are trained again; the rule chooses among
            what comes of them.
        combine: What becomes of the k networks: `nearest`, the one that agrees most with the mean of their predictions
            on the target; `soup`, the mean of their weights, which then begin alike; `distilled`, one network more of
            the same configuration, trained to predict the mean of their predictions on source and target; `ensemble`,
            the mean of their predictions, k times as slow when served. Heads that are solved for have no soup and learn
            from no teacher, and networks that train from nothing have no soup either: `nearest` takes their place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seeds: Whole = Field(default=3, ge=1)
    top: Whole = Field(default=1, ge=1)
    combine: Literal["nearest", "soup", "distilled", "ensemble"] = "nearest"


class SearchOptions(BaseModel):
    """How long and how hard to search.

    Attributes:
        num_trials: Trials in all, the source-only baseline among them.
        epochs: Full fidelity.
        min_steps: Of the optimiser, at least, in a trial at full fidelity that trains a head on frozen features: its
            epochs go over a small source several times. `null` for one pass an epoch, whatever trains.
        grace_epochs: No trial is stopped before it has run so many, not counting those in which its head trains alone
            before its stages do.
        reduction_factor: ASHA keeps one trial in so many at each rung.
        advice: Whether the first trials are chosen by what the data look like through the pretrained backbone.
        time_budget_s: No new trial of the search starts after so many seconds, refits do; `null` for no limit.
        trial_time_limit_s: A trial ends after so many seconds of training, as one that needs too much; `null` for no
            limit.
        max_failures_in_a_row: The search stops when so many trials in a row have failed for the same kind of reason.
        seed: Of the sampler, the splits and every trial.
        selection: Rule by which the champion is chosen, and which says what the search maximises.
        refit: Training of the champion on all of the source, hold-out included, after the last trial; kept unless the
            rule finds it worse. `null` or `false` for none.
        validators: Label-free scores that are recorded each epoch; rules and guards need the first three, and
            `neighbours` and `nearest_labels` replace what they say of the target where they can be trusted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # JSON has no word for them

    num_trials: Whole = Field(default=24, ge=1)
    epochs: Whole = Field(default=10, ge=1)
    min_steps: Whole | None = Field(default=MIN_STEPS, ge=1)
    grace_epochs: Whole = Field(default=2, ge=1)
    reduction_factor: Number = Field(default=3, gt=1)
    advice: bool = True
    time_budget_s: Number | None = Field(default=None, gt=0)
    trial_time_limit_s: Number | None = Field(default=None, gt=0)
    max_failures_in_a_row: Whole = Field(default=5, ge=1)
    seed: Whole = Field(default=0, ge=0)
    selection: Component = Component(name="agreement")
    refit: RefitOptions | None = RefitOptions()
    validators: tuple[str, ...] = (*NEEDED_VALIDATORS, *JUDGE, "entropy")

    @property
    def has_judge(self) -> bool:
        """Whether trials are compared by what training can't bend, and not by confidence."""
        return any(name in self.validators for name in JUDGE)

    @field_validator("refit", mode="before")
    @classmethod
    def _on_or_off(cls, value: object) -> object:
        return {True: RefitOptions(), False: None}[value] if isinstance(value, bool) else value

    @field_validator("validators")
    @classmethod
    def _needed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if missing := [name for name in NEEDED_VALIDATORS if name not in names]:
            raise ValueError(f"lacks {', '.join(missing)}, which choosing a champion needs; add them")
        return names


class SearchFile(BaseModel):
    """A whole search-space file.

    Attributes:
        backbones: A person's own functions by the names that they have in `trial.backbone`; in a file as
            `my_net: my_models.py:build`, with a path relative to it.
        trial: A tree for each field of `TrialConfig` that is not left at its default, as JSON values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataOptions = DataOptions()
    search: SearchOptions = SearchOptions()
    backbones: dict[str, UserFunction] = Field(default_factory=dict)
    trial: dict[str, object]

    @field_validator("trial", mode="before")
    @classmethod
    def _as_json(cls, value: object) -> object:
        """Trees go through JSON into the study: keys become texts, and what JSON can't say is refused here."""
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"must hold finite numbers, texts, lists and mappings alone ({error})") from error

    def space(self) -> "SearchSpace":
        return SearchSpace(self.trial, self.search.epochs, self.search.seed, self.search.min_steps)


def load_search_file(path: Path | str) -> SearchFile:
    """Read a search-space file.

    Raises:
        InvalidInput: If the file is missing, is no YAML, or breaks a rule; all broken rules at once.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"search space {str(path)!r} is not a file; give the path of a YAML file.")
    content = read_yaml(path, "the sections data, search and trial")
    return validated(SearchFile, _beside(path, content), str(path), _value_problems(content.get("trial")))


def _value_problems(trees: object) -> list[str]:
    """Of the section `trial`, if it is one: those that can be told together with what is wrong with the others."""
    return SearchSpace(trees, 1, 0).value_problems() if isinstance(trees, dict) else []


def _beside(path: Path, content: dict[str, object]) -> dict[str, object]:
    """The content with paths of a person's own functions, weights and tokenizer as they are seen from the file."""
    changed = dict(content)
    if isinstance(functions := content.get("backbones"), dict):
        changed["backbones"] = {key: _absolute(path, value) for key, value in functions.items()}
    trial, data = content.get("trial"), content.get("data")
    if isinstance(trial, dict) and "backbone" in trial:
        changed["trial"] = {**trial, "backbone": _with_paths(path, trial["backbone"])}
    if isinstance(data, dict) and "tokenizer" in data:
        changed["data"] = {**data, "tokenizer": _with_paths(path, data["tokenizer"], of_weights=True)}
    return changed


def _absolute(path: Path, value: object) -> object:
    return str(path.parent.absolute() / Path(value).expanduser()) if isinstance(value, str) else value


def _with_paths(path: Path, tree: object, of_weights: bool = False) -> object:
    """A tree in which texts that name what exists, beside the search-space file or else here, are absolute paths.

    A text counts as a path if it looks like one, or stands where weights are named.
    """
    if isinstance(tree, dict):
        return {key: _with_paths(path, value, of_weights or key == "weights") for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_paths(path, value, of_weights) for value in tree]
    if not isinstance(tree, str) or not tree or not (of_weights or _PATH.search(tree)):
        return tree
    found = (place for place in (path, Path.cwd() / path.name) if Path(str(_absolute(place, tree))).exists())
    place = next(found, None)
    return tree if place is None else _absolute(place, tree)


_PATH = re.compile(r"[/\\]|\.(safetensors|pth|pt|bin)$")
