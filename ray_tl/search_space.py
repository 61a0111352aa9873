"""A search-space file: what may vary, checked before anything runs, sampled through anything with `suggest_*()`.

Notation, at any place where a value may stand::

    {uniform: [0, 1]}        float          {log_uniform: [1e-4, 1e-1]}   float, uniform in its logarithm
    {int: [0, 6]}            both ends in   {log_int: [8, 128]}           likewise
    {choice: [16, 32]}       one of a list  {by: backbone, cases: {...}}  depends on the component chosen before
    auto                     the range that the component declares itself

A component is a name (`mcc`), a name with parameters (`{mcc: {temperature: 2.5}}`) or a choice among them
(`{choice: {source_only:, mcc: {temperature: auto}}}`). Parameters exist only where their component is chosen.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ray_tl.config import Component, TrialConfig
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.registry import Parameter, Registry, Scalar, Value, did_you_mean

Tree = object
Catalogue = Mapping[str, Registry]
NEEDED_VALIDATORS = ("source_accuracy", "im", "bnm")
RANGES = ("uniform", "log_uniform", "int", "log_int")


class Suggests(Protocol):
    """What a space is sampled through: an Optuna trial, or anything alike."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar: ...


class DataOptions(BaseModel):
    """How files become a pair of domains.

    Attributes:
        holdout_fraction: Share of the source that is never trained on, for source accuracy.
        on_broken: What to do with an unreadable image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(default=96, ge=8, le=1024)
    channels: Literal[1, 3] = 3
    holdout_fraction: float = Field(default=0.2, gt=0, lt=1)
    on_broken: Literal["stop", "skip"] = "stop"


class SearchOptions(BaseModel):
    """How long and how hard to search.

    Attributes:
        num_trials: Trials in all, the source-only baseline among them.
        epochs: Full fidelity.
        grace_epochs: No trial is stopped before it has run so many.
        reduction_factor: ASHA keeps one trial in so many at each rung.
        time_budget_s: No new trial starts after so many seconds; `null` for no limit.
        seed: Of the sampler, the splits and every trial.
        validators: Label-free scores that are recorded each epoch; `objective` and guards need the first three.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_trials: int = Field(default=24, ge=1)
    epochs: int = Field(default=10, ge=1)
    grace_epochs: int = Field(default=2, ge=1)
    reduction_factor: float = Field(default=3, gt=1)
    time_budget_s: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    validators: tuple[str, ...] = (*NEEDED_VALIDATORS, "entropy")

    @field_validator("validators")
    @classmethod
    def _needed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if missing := [name for name in NEEDED_VALIDATORS if name not in names]:
            raise ValueError(f"lacks {', '.join(missing)}, which choosing a champion needs; add them")
        return names


class SearchFile(BaseModel):
    """A whole search-space file.

    Attributes:
        trial: A tree for each field of `TrialConfig` that is not left at its default, as JSON values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataOptions = DataOptions()
    search: SearchOptions = SearchOptions()
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
        return SearchSpace(self.trial, self.search.epochs, self.search.seed)


class SearchSpace:
    """Trees for the fields of a `TrialConfig`.

    Args:
        trees: By field name, in the notation of the module.
        epochs: Full fidelity of every trial.
        seed: Of every trial, unless the trees hold one.
    """

    def __init__(self, trees: Mapping[str, Tree], epochs: int, seed: int) -> None:
        fields = [name for name in TrialConfig.model_fields if name in trees]
        self.trees = {name: trees[name] for name in fields}
        self._unknown = [name for name in trees if name not in TrialConfig.model_fields]
        self._defaults: dict[str, Value] = {"epochs": epochs, "seed": seed}

    def sample(self, trial: Suggests) -> TrialConfig:
        """One configuration; names of parameters are paths: `method`, `method.mcc.temperature`."""
        sampled: dict[str, object] = dict(self._defaults)
        for name, tree in self.trees.items():
            sampled[name] = _sample(tree, name, trial, sampled)
        return TrialConfig.model_validate(sampled)

    def baseline(self) -> TrialConfig:
        """Plain source-only, without augmentation, in the middle of the space: what every search has to beat.

        Ranges give their middle (geometric for logarithmic ones), choices their first.
        """
        middle = self.sample(Middle())
        plain = {
            "method": Component(name="source_only"),
            "loss_weighting": Component(name="constant"),
            "augmentation": Component(name="none"),
        }
        return middle.model_copy(update=plain)

    def resolved(self, catalogue: Catalogue) -> "SearchSpace":
        """The same space with every `auto` replaced by the range that the component declares."""
        trees = {
            name: _resolve(tree, catalogue[name]) if name in catalogue else tree for name, tree in self.trees.items()
        }
        return SearchSpace(trees, cast(int, self._defaults["epochs"]), cast(int, self._defaults["seed"]))

    def problems(self, catalogue: Catalogue) -> list[str]:
        """Everything that is wrong with the space, given the components that there are."""
        found = [
            f"trial.{name} is not known{did_you_mean(name, list(TrialConfig.model_fields))}" for name in self._unknown
        ]
        if "backbone" not in self.trees:
            found.append("trial.backbone is missing; name one, for example 'efficientnet_lite0'.")
        before: dict[str, Tree] = {}
        for name, tree in self.trees.items():
            found += _problems(tree, Place(f"trial.{name}", name, catalogue.get(name), before))
            before[name] = tree
        return found

    def extremes(self, fields: Collection[str]) -> Iterator[TrialConfig]:
        """Configurations of these fields, the others at their defaults: every combination of choices, at both ends.

        Args:
            fields: With those that they depend on; few, as the combinations multiply.
        """
        part = {name: tree for name, tree in self.trees.items() if name in fields}
        space = SearchSpace(part, cast(int, self._defaults["epochs"]), cast(int, self._defaults["seed"]))
        for end in (0, -1):
            turn: list[tuple[int, int]] | None = []
            while turn is not None:
                corner = Corner(end, turn)
                yield space.sample(corner)
                turn = corner.next_turn()

    def fingerprint(self) -> str:
        """SHA-256 of the trees, in hex: a study goes on only in the space that it began in."""
        return hashlib.sha256(json.dumps([self.trees, self._defaults]).encode()).hexdigest()


class Middle:
    """A trial that suggests the middle of every range and the first of every choice."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float((low * high) ** 0.5) if log else (low + high) / 2

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return round(self.suggest_float(name, low, high, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return choices[0]


class Corner:
    """A trial that suggests one end of every range, and takes choices in turn.

    Args:
        end: 0 for the lower end of each range, -1 for the upper.
        turn: Number of the option taken and number of options, for each choice in the order of asking; then the first.
    """

    def __init__(self, end: int, turn: Sequence[tuple[int, int]] = ()) -> None:
        self._end, self._planned = end, [taken for taken, _ in turn]
        self._turn: list[tuple[int, int]] = []

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return (low, high)[self._end]

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return (low, high)[self._end]

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        place = len(self._turn)
        taken = self._planned[place] if place < len(self._planned) else 0
        self._turn.append((taken, len(choices)))
        return choices[taken]

    def next_turn(self) -> list[tuple[int, int]] | None:
        """The turn after this one, counted like an odometer; `None` after the last."""
        turn = list(self._turn)
        while turn:
            taken, num_choices = turn.pop()
            if taken + 1 < num_choices:
                return [*turn, (taken + 1, num_choices)]
        return None


def load_search_file(path: Path | str) -> SearchFile:
    """Read a search-space file.

    Raises:
        InvalidInput: If the file is missing, is no YAML, or breaks a rule; all broken rules at once.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"search space {str(path)!r} is not a file; give the path of a YAML file.")
    try:
        content = yaml.load(path.read_bytes(), _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date like 2020-13-01
        raise InvalidInput(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: must hold the sections data, search and trial; it holds {type(content).__name__}.")
    return validated(SearchFile, content, str(path))


M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], content: object, subject: str) -> M:
    """`content` as `model`; raises `InvalidInput` with every broken rule at once."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise all_at_once(subject, explain(error, model)) from error


class _Loader(yaml.SafeLoader):
    """YAML 1.2 floats: PyYAML takes `1e-4` for a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each broken rule: field, value, rule, and the nearest known name for an unknown one."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{where} is not known{did_you_mean(str(item['loc'][-1]), _siblings(model, item['loc']))}")
        else:
            lines.append(f"{where}={item['input']!r}: {item['msg']}." if where else item["msg"])
    return lines


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


@dataclass(frozen=True)
class Place:
    """Where a tree stands.

    Attributes:
        path: For messages.
        field: Of the trial.
        registry: Of the components that may stand here; `None` where a value stands.
        before: Trees of the fields before this one, on which it may depend.
    """

    path: str
    field: str
    registry: Registry | None
    before: Mapping[str, Tree]

    def below(self, key: object) -> "Place":
        return replace(self, path=f"{self.path}.{key}")


def _range(tree: Tree) -> tuple[str, list[float]] | None:
    if isinstance(tree, dict) and len(tree) == 1:
        ((kind, bounds),) = tree.items()
        if kind in RANGES and isinstance(bounds, list):  # else it is the component 'uniform' with its parameters
            return kind, bounds
    return None


def _sample(tree: Tree, path: str, trial: Suggests, before: Mapping[str, object]) -> object:
    if (bounds := _range(tree)) is not None:
        return _sample_range(bounds[0], bounds[1], path, trial)
    if isinstance(tree, list):
        return [_sample(item, f"{path}.{index}", trial, before) for index, item in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    if "by" in tree:
        case = _chosen(before[tree["by"]])  # part of the path: Optuna wants one set of choices for each name
        return _sample(tree["cases"][case], f"{path}.{case}", trial, before)
    if "choice" not in tree:
        ((name, params),) = tree.items()
        return _sample_component(name, params, path, trial, before)
    chosen = trial.suggest_categorical(path, list(tree["choice"]))
    if isinstance(tree["choice"], list):
        return chosen
    return _sample_component(str(chosen), tree["choice"][chosen], path, trial, before)


def _sample_range(kind: str, bounds: list[float], path: str, trial: Suggests) -> float:
    log = kind.startswith("log_")
    if kind.endswith("int"):
        return trial.suggest_int(path, int(bounds[0]), int(bounds[1]), log=log)
    return trial.suggest_float(path, float(bounds[0]), float(bounds[1]), log=log)


def _sample_component(
    name: str, params: Tree, path: str, trial: Suggests, before: Mapping[str, object]
) -> dict[str, object]:
    trees = cast(dict[str, Tree], params or {})
    values = {key: _sample(tree, f"{path}.{name}.{key}", trial, before) for key, tree in trees.items()}
    return {"name": name, "params": values}


def _chosen(value: object) -> str:
    return value["name"] if isinstance(value, dict) else str(value)


def _resolve(tree: Tree, registry: Registry) -> Tree:
    if not isinstance(tree, dict):
        return tree
    if "by" in tree:
        return {**tree, "cases": {name: _resolve(case, registry) for name, case in tree["cases"].items()}}
    if "choice" in tree:
        options = tree["choice"]
        return {"choice": _resolve_options(options, registry) if isinstance(options, dict) else options}
    return _resolve_options(tree, registry)


def _resolve_options(options: Mapping[str, Tree], registry: Registry) -> dict[str, Tree]:
    return {
        name: {key: _declared(tree, registry.parameters(name).get(key)) for key, tree in params.items()}
        if isinstance(params, dict)
        else params
        for name, params in options.items()
    }


def _declared(tree: Tree, parameter: Parameter | None) -> Tree:
    return parameter.range if tree == "auto" and parameter is not None else tree


def _problems(tree: Tree, place: Place) -> list[str]:
    """What is wrong with a tree where a field's value stands."""
    if place.registry is None:
        return _value_problems(tree, place) or _field_problems(tree, place.field)
    if isinstance(tree, dict) and "by" in tree:
        return _case_problems(tree, place, _problems)
    return _component_problems(tree, place.registry, place)


def _value_problems(tree: Tree, place: Place) -> list[str]:
    """What is wrong with a tree where a single value or a list of values stands."""
    if isinstance(tree, list):
        return [line for index, item in enumerate(tree) for line in _value_problems(item, place.below(index))]
    if not isinstance(tree, dict):
        return []
    if "by" in tree:
        return _case_problems(tree, place, _value_problems)
    if (bounds := _range(tree)) is not None:
        return _range_problems(*bounds, place.path)
    choices = tree.get("choice")
    if (
        set(tree) != {"choice"}
        or not isinstance(choices, list)
        or any(isinstance(item, dict | list) for item in choices)
    ):
        return [f"{place.path}={tree!r} is neither a value nor a range; use {', '.join(RANGES)}, choice: [...], or by."]
    return [] if choices else [f"{place.path}.choice is empty; give at least one value."]


def _field_problems(tree: Tree, field: str) -> list[str]:
    found: dict[str, None] = {}
    for value in _values(tree):
        try:
            TrialConfig.model_validate({"backbone": "any", field: value})
        except ValidationError as error:
            found |= dict.fromkeys(f"trial.{line}" for line in explain(error, TrialConfig))
    return list(found)


def _range_problems(kind: str, bounds: list[float], where: str) -> list[str]:
    if len(bounds) != 2 or not all(_is_number(bound) for bound in bounds):
        return [f"{where}.{kind}={bounds!r} must be two numbers [low, high]."]
    low, high = bounds
    stated = f"{where}.{kind}={bounds!r}"
    found = [f"{stated}: low is above high; swap them."] if low > high else []
    if kind.startswith("log_") and low <= 0:
        found.append(f"{stated}: a logarithmic range needs low > 0; raise it or use {kind[4:]}.")
    if kind.endswith("int") and not (float(low).is_integer() and float(high).is_integer()):
        found.append(f"{stated} must be whole numbers; round them or use uniform.")
    return found


def _case_problems(tree: dict[str, Tree], place: Place, inside: Callable[[Tree, Place], list[str]]) -> list[str]:
    cases = tree.get("cases")
    if set(tree) != {"by", "cases"} or not isinstance(cases, dict):
        return [f"{place.path} must have exactly the keys 'by' and 'cases', cases being a mapping of names."]
    if not isinstance(tree["by"], str) or tree["by"] not in place.before:
        earlier = ", ".join(place.before) or "there is none"
        return [f"{place.path}.by={tree['by']!r} must name a field given before {place.field!r}: {earlier}."]
    names = _names(place.before[tree["by"]])
    found = [
        f"{place.path}.cases lacks {name!r}, which {tree['by']} may be; add it." for name in names if name not in cases
    ]
    for name, case in cases.items():
        below = place.below(f"cases.{name}")
        found += inside(case, below) if name in names else [f"{below.path} is never chosen{did_you_mean(name, names)}"]
    return found


def _component_problems(tree: Tree, registry: Registry, place: Place) -> list[str]:
    is_choice = isinstance(tree, dict) and set(tree) == {"choice"}
    options = tree["choice"] if isinstance(tree, dict) and is_choice else tree
    if isinstance(options, str) and not is_choice:
        options = {options: None}
    if isinstance(options, list) and is_choice and all(isinstance(item, str) for item in options):
        options = dict.fromkeys(options)
    if not isinstance(options, dict) or not options or (len(options) > 1 and not is_choice):
        rule = "a name, {name: {parameters}}, or a choice of at least one of those"
        return [f"{place.path}={tree!r} must be one {registry.kind}: {rule}."]
    return [line for name, params in options.items() for line in _option_problems(name, params, registry, place)]


def _option_problems(name: str, params: Tree, registry: Registry, place: Place) -> list[str]:
    if params is not None and not isinstance(params, dict):
        return [f"{place.path}.{name}={params!r} must be a mapping of parameters, or nothing for its defaults."]
    trees: dict[str, Tree] = params or {}
    found = [f"{place.path}: {line}" for line in registry.key_problems(name, trees)]
    declared = registry.parameters(name) if name in registry.names() else {}
    for key in [key for key in trees if key in declared]:
        found += _parameter_problems(name, trees[key], declared[key], registry, place.below(f"{name}.{key}"))
    return found


def _parameter_problems(name: str, tree: Tree, parameter: Parameter, registry: Registry, place: Place) -> list[str]:
    stated = _declared(tree, parameter)
    if stated is None and tree is not None:
        return [f"{place.path}=auto, but {name!r} declares no range for it; write one."]
    if found := _value_problems(stated, place):
        return found
    lines = [line for value in _values(stated) for line in registry.value_problems(name, parameter.name, value)]
    return [f"{place.path}: {line}" for line in dict.fromkeys(lines)]


def _values(tree: Tree) -> list[object]:
    """Of a sound tree where a value stands: both ends of each range and every choice, each at least once."""
    if isinstance(tree, list):
        columns = [_values(item) for item in tree]  # shorter columns begin again
        longest = max(map(len, columns), default=1)
        return [[column[index % len(column)] for column in columns] for index in range(longest)]
    if not isinstance(tree, dict):
        return [tree]
    if "by" in tree:
        return [value for case in tree["cases"].values() for value in _values(case)]
    if "choice" in tree:
        return list(tree["choice"])
    return [_sample(tree, "", Corner(end), {}) for end in (0, -1)]


def _names(tree: Tree) -> list[str]:
    """Every name or value, as text, that a field may have; of whole numbers all in the range."""
    if isinstance(tree, dict) and isinstance(cases := tree.get("cases"), dict):
        return [name for case in cases.values() for name in _names(case)]
    if (bounds := _range(tree)) is not None and bounds[0].endswith("int") and not _range_problems(*bounds, ""):
        return [str(number) for number in range(int(bounds[1][0]), int(bounds[1][1]) + 1)]
    options = tree.get("choice", tree) if isinstance(tree, dict) else tree
    return [str(option) for option in options] if isinstance(options, dict | list) else [str(options)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
