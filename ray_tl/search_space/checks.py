"""Everything that can be wrong with a tree, found without sampling it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from ray_tl.config import TrialConfig
from ray_tl.registry import Parameter, Registry, did_you_mean
from ray_tl.search_space.explain import explain
from ray_tl.search_space.trees import RANGES, Corner, Tree, as_range, declared, sample_tree


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


def tree_problems(tree: Tree, place: Place) -> list[str]:
    """What is wrong with a tree where a field's value stands."""
    if place.registry is None:
        return _value_problems(tree, place) or _field_problems(tree, place.field)
    if isinstance(tree, dict) and "by" in tree:
        return _case_problems(tree, place, tree_problems)
    return _component_problems(tree, place.registry, place)


def _value_problems(tree: Tree, place: Place) -> list[str]:
    """What is wrong with a tree where a single value or a list of values stands."""
    if isinstance(tree, list):
        return [line for index, item in enumerate(tree) for line in _value_problems(item, place.below(index))]
    if not isinstance(tree, dict):
        return []
    if "by" in tree:
        return _case_problems(tree, place, _value_problems)
    if (bounds := as_range(tree)) is not None:
        return _range_problems(*bounds, place.path)
    choices = tree.get("choice")
    if set(tree) != {"choice"} or not isinstance(choices, list) or any(isinstance(item, dict) for item in choices):
        return [f"{place.path}={tree!r} is neither a value nor a range; use {', '.join(RANGES)}, choice: [...], or by."]
    if any(isinstance(item, list) for item in choices):
        each = "[{choice: [4, 8]}, {int: [4, 16]}]"
        return [f"{place.path}={tree!r} is a choice between lists; give each element its own range, such as {each}."]
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
    stated = declared(tree, parameter)
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
    return [sample_tree(tree, "", Corner(end), {}) for end in (0, -1)]


def _names(tree: Tree) -> list[str]:
    """Every name or value, as text, that a field may have; of whole numbers all in the range."""
    if isinstance(tree, dict) and isinstance(cases := tree.get("cases"), dict):
        return [name for case in cases.values() for name in _names(case)]
    if (bounds := as_range(tree)) is not None and bounds[0].endswith("int") and not _range_problems(*bounds, ""):
        return [str(number) for number in range(int(bounds[1][0]), int(bounds[1][1]) + 1)]
    options = tree.get("choice", tree) if isinstance(tree, dict) else tree
    return [str(option) for option in options] if isinstance(options, dict | list) else [str(options)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
