"""The notation of a search space: how a tree becomes a value."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeGuard, cast

from ray_tl.registry import Parameter, Registry, Scalar

Tree = object
RANGES = ("uniform", "log_uniform", "int", "log_int")
Preference = Callable[[Scalar], float]  # of a value: the smaller, the better


class Suggests(Protocol):
    """What a space is sampled through: an Optuna trial, or anything alike."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar: ...


class Middle:
    """A trial that suggests the middle of every range and the first of every choice."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float((low * high) ** 0.5) if log else (low + high) / 2

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return round(self.suggest_float(name, low, high, log=log))

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return choices[0]


class Preferring(Middle):
    """A trial that suggests what comes nearest to stated values, and the middle or the first for all else.

    Args:
        preferred: By field of the trial; of whole numbers and choices the best is taken, of equals the first.
        wanted: By field, or by field, component and parameter (`method.mcc.temperature`): a value to come near to. A
            range that does not hold it gives its nearer end, a choice its nearest number, or else its first.

    Attributes:
        taken: What was suggested, by path: the point of the space.
    """

    def __init__(
        self, preferred: Mapping[str, Preference], wanted: Mapping[str, Scalar] = MappingProxyType({})
    ) -> None:
        self._preferred, self._wanted = preferred, wanted
        self.taken: dict[str, Scalar] = {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        wanted = self._wanted.get(_without_case(name))
        value = super().suggest_float(name, low, high, log=log)
        self.taken[name] = value = float(min(max(wanted, low), high)) if _is_number(wanted) else value
        return value

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        preference = self._preference(name)
        value = super().suggest_int(name, low, high, log=log)
        self.taken[name] = value = value if preference is None else min(range(low, high + 1), key=preference)
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        preference = self._preference(name)
        self.taken[name] = value = choices[0] if preference is None else min(choices, key=preference)
        return value

    def _preference(self, name: str) -> Preference | None:
        key = _without_case(name)
        if key in self._preferred:
            return self._preferred[key]
        return near(self._wanted[key]) if key in self._wanted else None


def near(wanted: Scalar) -> Preference:
    """The same value, or else the nearest number; what is neither comes last."""

    def distance(value: Scalar) -> float:
        if value == wanted and isinstance(value, bool) == isinstance(wanted, bool):
            return 0.0
        return abs(value - wanted) if _is_number(value) and _is_number(wanted) else math.inf

    return distance


def _without_case(path: str) -> str:
    """The field, or field, component and parameter, of a path in which the case of a `by` may stand."""
    parts = path.split(".")
    return parts[0] if len(parts) < 3 else ".".join([parts[0], *parts[-2:]])


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


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


def as_range(tree: Tree) -> tuple[str, list[float]] | None:
    if isinstance(tree, dict) and len(tree) == 1:
        ((kind, bounds),) = tree.items()
        if kind in RANGES and isinstance(bounds, list):  # else it is the component 'uniform' with its parameters
            return kind, bounds
    return None


def sample_tree(tree: Tree, path: str, trial: Suggests, before: Mapping[str, object]) -> object:
    if (bounds := as_range(tree)) is not None:
        return _sample_range(bounds[0], bounds[1], path, trial)
    if isinstance(tree, list):
        return [sample_tree(item, f"{path}.{index}", trial, before) for index, item in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    if "by" in tree:
        case = _chosen(before[tree["by"]])  # part of the path: Optuna wants one set of choices for each name
        return sample_tree(tree["cases"][case], f"{path}.{case}", trial, before)
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
    values = {key: sample_tree(tree, f"{path}.{name}.{key}", trial, before) for key, tree in trees.items()}
    return {"name": name, "params": values}


def _chosen(value: object) -> str:
    return value["name"] if isinstance(value, dict) else str(value)


def resolve_tree(tree: Tree, registry: Registry) -> Tree:
    if not isinstance(tree, dict):
        return tree
    if "by" in tree:
        return {**tree, "cases": {name: resolve_tree(case, registry) for name, case in tree["cases"].items()}}
    if "choice" in tree:
        options = tree["choice"]
        return {"choice": _resolve_options(options, registry) if isinstance(options, dict) else options}
    return _resolve_options(tree, registry)


def _resolve_options(options: Mapping[str, Tree], registry: Registry) -> dict[str, Tree]:
    return {
        name: {key: declared(tree, registry.parameters(name).get(key)) for key, tree in params.items()}
        if isinstance(params, dict)
        else params
        for name, params in options.items()
    }


def declared(tree: Tree, parameter: Parameter | None) -> Tree:
    return parameter.range if tree == "auto" and parameter is not None else tree
