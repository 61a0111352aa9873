"""YAML files as YAML 1.2 means them, refused with everything that is wrong with them.

Texts are read by the core schema, https://yaml.org/spec/1.2.2/#103-core-schema: `yes`, `off`, `1:30`, `1_000` and dates
are texts. Merge keys (`<<`) are kept from YAML 1.1. Nothing is guessed: a key given twice is a mistake, and so is a
whole number with leading zeros, which is octal in YAML 1.1 and decimal in 1.2.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode, SequenceNode

from ray_tl.errors import InvalidInput, all_at_once

MAX_BYTES = 2**20
MAX_VALUES = 100_000  # with every alias written out
MAX_DEPTH = 100
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_CONSTANTS: dict[str, dict[str, object]] = {
    "null": dict.fromkeys(("", "~", "null", "Null", "NULL")),
    "bool": {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False},
}
_NUMBERS = {
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels; flatten it."


def read_yaml(path: Path, holds: str) -> dict[str, object]:
    """The mapping in a YAML file, its keys as JSON would write them.

    Args:
        path: Of the file.
        holds: What should be in it, for messages: "the sections data, search and trial".

    Raises:
        InvalidInput: If it can't be read, is no YAML, or holds no mapping; all its mistakes at once.
    """
    node = _composed(_content(path), str(path))
    if not isinstance(node, MappingNode):
        found = "nothing" if node is None else "a list" if isinstance(node, SequenceNode) else "a single value"
        raise InvalidInput(f"{path}: must hold {holds}; it holds {found}.")
    content = _value(node, str(path))
    assert isinstance(content, dict)
    return content


def read_yaml_value(text: str, subject: str) -> object:
    """The value that a text of a command line is, by the rules of a file; `None` of an empty one.

    Args:
        text: `agreement`, or `{validators: {names: [ensv]}}`.
        subject: What it is, for messages: "--selection".

    Raises:
        InvalidInput: If it is no YAML; all its mistakes at once.
    """
    node = _composed(text.encode(), subject)
    return None if node is None else _value(node, subject)


def _value(node: Node, subject: str) -> object:
    reading = _Reading()
    try:
        content = reading.value(node, "")
    except RecursionError:
        raise InvalidInput(f"{subject}: not valid YAML: {_TOO_DEEP}") from None
    if problems := [*reading.problems, *reading.extent(node).problems()]:
        raise all_at_once(f"{subject}: not valid YAML", problems)
    return content


def _composed(content: bytes, path: str) -> Node | None:
    """A content as nodes, whose texts have not been read yet; `path` is what it is called."""
    try:
        node: Node | None = yaml.compose(content, _Composer)
    except yaml.MarkedYAMLError as error:
        raise InvalidInput(f"{path}: not valid YAML: {_in_a_line(error)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: not valid YAML: {' '.join(str(error).split())}; save it as UTF-8.") from None
    except RecursionError:
        raise InvalidInput(f"{path}: not valid YAML: {_TOO_DEEP}") from None
    return node


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{path} can't be read ({error.strerror}); give the path of a YAML file.") from None
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{path} is over the limit of {MAX_BYTES} bytes; give the path of a YAML file.")
    return content


def _in_a_line(error: yaml.MarkedYAMLError) -> str:
    said = ", ".join(part for part in (error.context, error.problem) if part)
    where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
    remedies = {"'\\t'": "indent with spaces", "another document": "keep one", "duplicate anchor": "rename one"}
    remedy = next((f"; {remedy}" for sign, remedy in remedies.items() if sign in said), "")
    return f"{where}{said}{remedy}."


class _Composer(yaml.SafeLoader):
    """The core schema alone tells what a text without quotes and tag is."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the parent's are those of YAML 1.1


def _resolve_the_core_schema() -> None:
    constants = {kind: "|".join(map(re.escape, words)) for kind, words in _CONSTANTS.items()}
    for kind, pattern in {**constants, **_NUMBERS, "merge": "<<"}.items():  # the first that fits counts
        _Composer.add_implicit_resolver(f"{_TAG}{kind}", re.compile(rf"({pattern})\Z"), None)


_resolve_the_core_schema()


@dataclass(frozen=True)
class _Extent:
    """Of a value with its aliases written out: how many values it holds, and how deep they are nested."""

    size: int = 1
    depth: int = 1

    def problems(self) -> list[str]:
        found = [_TOO_DEEP] if self.depth > MAX_DEPTH else []
        if self.size > MAX_VALUES:
            found.append(f"its aliases stand for more than {MAX_VALUES} values; write out fewer.")
        return found


@dataclass
class _Reading:
    """One pass over the nodes of a file, which collects the problems that it finds."""

    problems: list[str] = field(default_factory=list)
    _values: dict[int, object] = field(default_factory=dict)  # by the identity of a node: an alias is read once
    _extents: dict[int, _Extent] = field(default_factory=dict)

    def value(self, node: Node, where: str) -> object:
        """The value of a node; anything, where there is a problem.

        Args:
            node: To read.
            where: The keys that lead to it, with dots.
        """
        if id(node) not in self._values:
            self._values[id(node)] = None  # until it is known
            self._values[id(node)] = self._read(node, where)
            self._extents[id(node)] = self._measured(node)
        elif id(node) not in self._extents:
            self._complain(node, f"{where} is an alias of what it stands in; write it out.")
        return self._values[id(node)]

    def extent(self, node: Node) -> _Extent:
        return self._extents.get(id(node), _Extent())

    def _measured(self, node: Node) -> _Extent:
        if not isinstance(node, CollectionNode):
            return _Extent()
        items = [item[1] if isinstance(node, MappingNode) else item for item in node.value]
        extents = [self.extent(item) for item in items]
        return _Extent(1 + sum(each.size for each in extents), 1 + max((each.depth for each in extents), default=0))

    def _read(self, node: Node, where: str) -> object:
        if isinstance(node, ScalarNode):
            return self._scalar(node, where)
        if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, f"{where}.{index}") for index, item in enumerate(node.value)]
        if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, where)
        return self._unknown_tag(node)

    def _mapping(self, node: MappingNode, where: str) -> dict[str, object]:
        merged: dict[str, object] = {}
        own: dict[str, object] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, where)
            place = f"{where}.{key}" if where else key
            if key in lines:
                self._complain(key_node, f"{place} was given before, on line {lines[key]}; keep one of the two.")
                continue
            lines[key] = _line(key_node)
            value = self.value(value_node, place)
            if key_node.tag == _MERGE:
                merged = self._merged(value_node, value, place)
            else:
                own[key] = value
        return {**merged, **own}

    def _key(self, node: Node, where: str) -> str:
        if not isinstance(node, ScalarNode):
            self._complain(node, f"{where or 'the file'} has a list or mapping as a key; use a text.")
            return f"key on line {_line(node)}, column {node.start_mark.column}"
        key = self._scalar(node, where)
        return key if isinstance(key, str) else json.dumps(key)

    def _merged(self, node: Node, value: object, where: str) -> dict[str, object]:
        """What `<<` brings: a mapping, or of a list of them the first that has a key."""
        if self.extent(node).size > MAX_VALUES:
            return {}
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            self._complain(node, f"{where} must be a mapping or a list of mappings; give an alias of one.")
            return {}
        return {key: item for part in reversed(parts) for key, item in part.items()}

    def _scalar(self, node: ScalarNode, where: str) -> object:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind in ("str", "merge"):
            return text
        if kind in _CONSTANTS and text in _CONSTANTS[kind]:
            return _CONSTANTS[kind][text]
        if kind not in _NUMBERS or not re.fullmatch(_NUMBERS[kind], text):
            return self._unknown_tag(node)
        if kind == "float":
            return float(re.sub(r"\.(?=[iInN])", "", text))
        return self._whole(node, text, where)

    def _whole(self, node: ScalarNode, text: str, where: str) -> int:
        stated = f"{where}={text[:30]}"
        if _LEADING_ZERO.fullmatch(text):
            self._complain(node, f"{stated} has a leading zero{_readings(text)}, or put it in quotes if it is a text.")
            return 0
        number = int(text, 0) if len(text) < 30 else 2**64
        if not -(2**63) <= number < 2**63:
            self._complain(node, f"{stated} is a whole number beyond 64 bits; give a smaller one.")
        return number

    def _unknown_tag(self, node: Node) -> object:
        tag = node.tag.replace(_TAG, "!!")
        self._complain(node, f"tag {tag!r} is not known or does not fit; leave it out.")
        return None

    def _complain(self, node: Node, problem: str) -> None:
        self.problems.append(f"line {_line(node)}: {problem}")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _readings(text: str) -> str:
    """The question that a whole number with a leading zero raises, and its answers."""
    if len(text) > 20 or set(text) & {"8", "9"} or int(text, 8) == int(text):
        return "; leave it out"
    octal, decimal = int(text, 8), int(text)
    return f": is it {octal}, as in YAML 1.1, or {decimal}, as in 1.2? Write {octal} or {decimal}"
