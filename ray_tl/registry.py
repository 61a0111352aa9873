"""Names and parameters to components.

A component's **keyword-only** parameters are what a search may choose; its positional parameters are what the
system supplies. So the signature is the only declaration, and `ray-tl components` prints it.
"""

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ray_tl.errors import InvalidInput, UnknownName

T = TypeVar("T")
U = TypeVar("U")
Scalar = bool | int | float | str | None
Value = Scalar | list[int | float] | list[str]
TEXTS = "list of str"
ANY = "any"  # a parameter without annotation takes any value
_TRUTH_OF_YAML_1_1 = frozenset({"yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True)
class Parameter:
    """One searchable parameter: its type as text, its default (`None` with `required` for none), its usual range."""

    name: str
    type: str
    default: Value
    required: bool
    range: Mapping[str, object] | None


@dataclass(frozen=True)
class Published:
    """Settings with which the authors of a component report their results: where to begin, before any range.

    Attributes:
        source: Paper and section, or the authors' code; and what of it could not be taken over.
        params: Of the component; those that it leaves out stay at their defaults.
        trial: Other fields of a trial that belong to the recipe, in the notation of a search-space file.
    """

    source: str
    params: Mapping[str, Value] = field(default_factory=dict)
    trial: Mapping[str, object] = field(default_factory=dict)


class Registry(Generic[T]):
    """Components of one kind by name.

    Args:
        kind: What the components are, in the singular, for messages: "adaptation method".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}
        self._ranges: dict[str, Mapping[str, Mapping[str, object]]] = {}
        self._published: dict[str, Published | None] = {}
        self._families: dict[str, str] = {}
        self._parameters: dict[str, dict[str, Parameter]] = {}

    def register(
        self,
        name: str,
        ranges: Mapping[str, Mapping[str, object]] | None = None,
        published: Published | None = None,
        family: str = "",
    ) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator that makes a class or function available as `name`.

        Args:
            name: The paper's name in lower case.
            ranges: For each parameter worth searching, its usual range in the notation of a search-space file,
                `{"temperature": {"log_uniform": [1, 5]}}`.
            published: The settings of its authors.
            family: Of components that work alike, and so err alike; the component alone by default.
        """

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            self._factories[name] = factory
            self._ranges[name] = ranges or {}
            self._published[name] = published
            self._families[name] = family or name
            self._parameters.pop(name, None)
            return factory

        return add

    def joined(self, other: "Registry[U]") -> "Registry[T | U]":
        """The components of both, as choices of this kind; no name may be in both."""
        assert not self._factories.keys() & other._factories.keys()
        both: Registry[T | U] = Registry(self.kind)
        both._factories = {**self._factories, **other._factories}
        both._ranges = {**self._ranges, **other._ranges}
        both._published = {**self._published, **other._published}
        both._families = {**self._families, **other._families}
        return both

    def names(self) -> list[str]:
        return sorted(self._factories)

    def summary(self, name: str) -> str:
        """First line of the component's docstring."""
        return (inspect.getdoc(self.factory(name)) or "").split("\n", 1)[0]

    def factory(self, name: str) -> Callable[..., T]:
        """The registered class or function.

        Raises:
            UnknownName: If there is none; the message lists the choices.
        """
        if name not in self._factories:
            raise UnknownName(f"{self.kind} {name!r} is not known{did_you_mean(name, self.names())}")
        return self._factories[name]

    def published(self, name: str) -> Published | None:
        """The settings of the component's authors; `None` where it states none.

        Raises:
            UnknownName: If there is no such component.
        """
        self.factory(name)
        return self._published[name]

    def family(self, name: str) -> str:
        """Of components that err alike.

        Raises:
            UnknownName: If there is no such component.
        """
        self.factory(name)
        return self._families[name]

    def parameters(self, name: str) -> dict[str, Parameter]:
        """The searchable parameters of a component, in the order of its signature."""
        factory = self.factory(name)
        if name not in self._parameters:  # every check of every sample asks
            self._parameters[name] = self._read_parameters(name, factory)
        return dict(self._parameters[name])

    def _read_parameters(self, name: str, factory: Callable[..., T]) -> dict[str, Parameter]:
        signature = inspect.signature(factory)
        hints = typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
        return {
            key: Parameter(
                name=key,
                type=_type_name(hints.get(key, object)),
                default=None if value.default is value.empty else value.default,
                required=value.default is value.empty,
                range=self._ranges[name].get(key),
            )
            for key, value in signature.parameters.items()
            if value.kind is value.KEYWORD_ONLY
        }

    def problems(self, name: str, values: Mapping[str, object]) -> list[str]:
        """What is wrong with these parameters for this component; empty if nothing is."""
        found = self.key_problems(name, values)
        if name in self._factories:
            found += [line for key, value in values.items() for line in self.value_problems(name, key, value)]
        return found

    def key_problems(self, name: str, keys: Collection[str]) -> list[str]:
        """Whether the component is known, knows these parameters, and lacks none that it needs."""
        if name not in self._factories:
            return [f"{self.kind} {name!r} is not known{did_you_mean(name, self.names())}"]
        known = self.parameters(name)
        found = [
            f"{self.kind} {name!r} has no parameter {key!r}{did_you_mean(key, list(known))}"
            for key in keys
            if key not in known
        ]
        return found + [
            f"{self.kind} {name!r} needs {key!r} ({parameter.type}); give it a value or a range"
            for key, parameter in known.items()
            if parameter.required and key not in keys
        ]

    def value_problems(self, name: str, key: str, value: object) -> list[str]:
        """Whether a value is of the parameter's type; nothing about a parameter that is not known."""
        known = self.parameters(name)
        if key not in known:
            return []
        if _may_be_meant_as_truth(value, known[key]):
            return [f"{name}.{key}={value!r} is a text, and its default is {known[key].default}; give true or false"]
        if _fits(value, known[key].type):
            return []
        such = "true or false" if known[key].type == "bool" else "such a value"
        return [f"{name}.{key}={value!r} is not of type {known[key].type}; give {such}"]

    def create(self, name: str, values: Mapping[str, Value], *context: object) -> T:
        """Build a component from its searchable parameters and what the system supplies.

        Raises:
            InvalidInput: If the name or a parameter is unknown, missing or of the wrong type.
        """
        found = self.problems(name, values)
        if found:
            raise (UnknownName if name not in self._factories else InvalidInput)("; ".join(found))
        return self._factories[name](*context, **values)


def did_you_mean(name: str, choices: list[str]) -> str:
    """The end of a message about an unknown name: the nearest choice and the whole list."""
    if not choices:
        return "; it takes none."
    near = difflib.get_close_matches(name, choices, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"{hint} choose from {', '.join(sorted(choices))}."


def _type_name(hint: object) -> str:
    if hint in (object, typing.Any):
        return ANY
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " | ".join(_type_name(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Literal:
        return " | ".join(repr(choice) for choice in typing.get_args(hint))
    if typing.get_origin(hint) in (list, tuple):
        return TEXTS if str in typing.get_args(hint) else "list"
    return getattr(hint, "__name__", str(hint))


def _may_be_meant_as_truth(value: object, parameter: Parameter) -> bool:
    """`no` is a text since YAML 1.2, and a text is true to Python."""
    is_open = parameter.type == ANY and isinstance(parameter.default, bool)
    return is_open and isinstance(value, str) and value.lower() in _TRUTH_OF_YAML_1_1


def _fits(value: object, type_name: str) -> bool:
    return any(_fits_one(value, part) for part in type_name.split(" | "))


def _fits_one(value: object, type_name: str) -> bool:
    if type_name == ANY:
        return True
    if type_name == "bool":
        return isinstance(value, bool)
    if type_name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if type_name == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if type_name == "str":
        return isinstance(value, str)
    if type_name == "list":
        return isinstance(value, list | tuple) and all(_fits_one(item, "float") for item in value)
    if type_name == TEXTS:
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if type_name == "null":
        return value is None
    return repr(value) == type_name
