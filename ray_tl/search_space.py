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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ray_tl.config import Component, TrialConfig
from ray_tl.errors import InvalidInput, all_at_once
from ray_tl.registry import Parameter, Registry, Scalar, Value, did_you_mean

Tree = object
Catalogue = Mapping[str, Registry]
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
        validators: Label-free scores that are recorded each epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_trials: int = Field(default=24, ge=1)
    epochs: int = Field(default=10, ge=1)
    grace_epochs: int = Field(default=2, ge=1)
    reduction_factor: float = Field(default=3, gt=1)
    time_budget_s: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    validators: tuple[str, ...] = ("source_accuracy", "im", "bnm", "entropy")


class SearchFile(BaseModel):
    """A whole search-space file.

    Attributes:
        trial: A tree for each field of `TrialConfig` that is not left at its default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataOptions = DataOptions()
    search: SearchOptions = SearchOptions()
    trial: dict[str, object]

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
        found: list[str] = []
        if "backbone" not in self.trees:
            found.append("trial.backbone is missing; name one, for example 'efficientnet_lite0'.")
        for name, tree in self.trees.items():
            found += list(_problems(tree, f"trial.{name}", catalogue.get(name)))
        return found or self._sample_problems()

    def extremes(self) -> Iterator[TrialConfig]:
        """Configurations at the ends of every range, with every choice taken in turn at least once."""
        for index in range(max(1, _widest(self.trees))):
            for end in (0.0, 1.0):
                yield self.sample(Corner(end, index))

    def fingerprint(self) -> str:
        """SHA-256 of the trees, in hex: a study goes on only in the space that it began in."""
        return hashlib.sha256(json.dumps([self.trees, self._defaults]).encode()).hexdigest()

    def _sample_problems(self) -> list[str]:
        found: dict[str, None] = {}
        for end in (0.0, 1.0):
            try:
                self.sample(Corner(end, 0))
            except ValidationError as error:
                found |= dict.fromkeys(f"trial.{line}" for line in explain(error, TrialConfig))
        return list(found)


class Middle:
    """A trial that suggests the middle of every range and the first of every choice."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float((low * high) ** 0.5) if log else (low + high) / 2

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return round(self.suggest_float(name, low, high, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return choices[0]


class Corner:
    """A trial that suggests one end of every range and the `index`-th (modulo) of every choice."""

    def __init__(self, end: float, index: int) -> None:
        self._end, self._index = end, index

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return high if self._end else low

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return high if self._end else low

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return choices[self._index % len(choices)]


def load_search_file(path: Path | str) -> SearchFile:
    """Read a search-space file.

    Raises:
        InvalidInput: If the file is missing, is no YAML, or breaks a rule; all broken rules at once.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"search space {str(path)!r} is not a file; give the path of a YAML file.")
    try:
        content = yaml.load(path.read_text(), _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
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


def _range(tree: Tree) -> tuple[str, list[float]] | None:
    if isinstance(tree, dict) and len(tree) == 1:
        ((kind, bounds),) = tree.items()
        if kind in RANGES:
            return kind, bounds
    return None


def _is_component_choice(tree: Tree) -> bool:
    return isinstance(tree, dict) and isinstance(tree.get("choice"), dict)


def _sample(tree: Tree, path: str, trial: Suggests, before: Mapping[str, object]) -> object:
    if (bounds := _range(tree)) is not None:
        return _sample_range(bounds[0], bounds[1], path, trial)
    if isinstance(tree, list):
        return [_sample(item, f"{path}.{index}", trial, before) for index, item in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    if "by" in tree:
        return _sample(tree["cases"][_chosen(before[tree["by"]])], path, trial, before)
    if _is_component_choice(tree):
        name = str(trial.suggest_categorical(path, list(tree["choice"])))
        return _sample_component(name, tree["choice"][name], path, trial, before)
    if "choice" in tree:
        return trial.suggest_categorical(path, list(tree["choice"]))
    ((name, params),) = tree.items()
    return _sample_component(name, params, path, trial, before)


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
    if not isinstance(tree, dict) or _range(tree) is not None:
        return tree
    if "by" in tree:
        return {**tree, "cases": {name: _resolve(case, registry) for name, case in tree["cases"].items()}}
    if _is_component_choice(tree):
        return {"choice": {name: _resolve_params(name, params, registry) for name, params in tree["choice"].items()}}
    return {name: _resolve_params(name, params, registry) for name, params in tree.items()}


def _resolve_params(name: str, params: Tree, registry: Registry) -> Tree:
    if not isinstance(params, dict):
        return params
    declared = registry.parameters(name)
    return {key: declared[key].range if value == "auto" else value for key, value in params.items()}


def _problems(tree: Tree, where: str, registry: Registry | None) -> Iterator[str]:
    if (bounds := _range(tree)) is not None:
        yield from _range_problems(*bounds, where)
    elif isinstance(tree, dict) and "by" in tree:
        yield from _case_problems(tree, where, registry)
    elif registry is not None:
        yield from _component_problems(tree, where, registry)
    elif isinstance(tree, dict) and set(tree) == {"choice"} and isinstance(tree["choice"], list):
        if not tree["choice"]:
            yield f"{where}.choice is empty; give at least one value."
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            yield from _problems(item, f"{where}.{index}", None)
    elif isinstance(tree, dict):
        yield f"{where}={tree!r} is neither a value nor a range; use one of {', '.join(RANGES)}, choice, by."


def _range_problems(kind: str, bounds: object, where: str) -> Iterator[str]:
    numbers = isinstance(bounds, list) and len(bounds) == 2 and all(_is_number(bound) for bound in bounds)
    if not numbers:
        yield f"{where}.{kind}={bounds!r} must be two numbers [low, high]."
        return
    low, high = cast(list[float], bounds)
    if low > high:
        yield f"{where}.{kind}={bounds!r}: low is above high; swap them."
    if kind.startswith("log_") and low <= 0:
        yield f"{where}.{kind}={bounds!r}: a logarithmic range needs low > 0; raise it or use {kind[4:]}."
    if kind.endswith("int") and not all(float(bound).is_integer() for bound in (low, high)):
        yield f"{where}.{kind}={bounds!r} must be whole numbers; round them or use uniform."


def _case_problems(tree: dict[str, Tree], where: str, registry: Registry | None) -> Iterator[str]:
    if set(tree) != {"by", "cases"} or not isinstance(tree["cases"], dict):
        yield f"{where} must have exactly the keys 'by' and 'cases', cases being a mapping of names."
        return
    earlier = list(TrialConfig.model_fields)
    here = where.split(".")[1]
    if tree["by"] not in earlier[: earlier.index(here) if here in earlier else 0]:
        yield f"{where}.by={tree['by']!r} must name a field that stands before {here!r}: {', '.join(earlier)}."
    for name, case in tree["cases"].items():
        yield from _problems(case, f"{where}.cases.{name}", registry)


def _component_problems(tree: Tree, where: str, registry: Registry) -> Iterator[str]:
    is_choice = isinstance(tree, dict) and set(tree) == {"choice"}
    options: Tree = cast(dict[str, Tree], tree)["choice"] if is_choice else tree
    if isinstance(options, str | list):
        options = dict.fromkeys([options] if isinstance(options, str) else options)
    if not isinstance(options, dict) or not options or (len(options) > 1 and not is_choice):
        yield f"{where}={tree!r} must be one {registry.kind}: a name, {{name: {{parameters}}}}, or a choice of those."
        return
    for name, params in cast(dict[str, Tree], options).items():
        yield from _option_problems(str(name), params, where, registry)


def _option_problems(name: str, params: Tree, where: str, registry: Registry) -> Iterator[str]:
    if params is not None and not isinstance(params, dict):
        yield f"{where}.{name}={params!r} must be a mapping of parameters, or nothing for its defaults."
        return
    trees = cast(dict[str, Tree], params or {})
    declared = registry.parameters(name) if name in registry.names() else {}
    for key, tree in trees.items():
        if tree == "auto" and key in declared and declared[key].range is None:
            yield f"{where}.{name}.{key}=auto, but {name!r} declares no range for it; write one."
        yield from _problems(tree, f"{where}.{name}.{key}", None)
    for end in (0.0, 1.0):
        values = _values_at(end, trees, declared)
        found = registry.problems(name, values)
        yield from (f"{where}: {line}" for line in found)
        if found:
            return


def _values_at(end: float, trees: Mapping[str, Tree], declared: Mapping[str, Parameter]) -> dict[str, object]:
    """Values at one end of every sound range; `auto` counts as the component's default."""
    values: dict[str, object] = {}
    for key, tree in trees.items():
        if tree == "auto":
            values |= {key: declared[key].default} if key in declared and not declared[key].required else {}
        elif not list(_problems(tree, key, None)):
            values[key] = _sample(tree, key, Corner(end, int(end) - 1), {})
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _widest(tree: Tree) -> int:
    if isinstance(tree, dict):
        own = len(cast(dict[str, Tree], tree["choice"])) if "choice" in tree else 0
        return max([own, *(_widest(item) for item in tree.values())], default=0)
    return 0
