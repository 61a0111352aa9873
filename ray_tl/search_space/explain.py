"""Pydantic's errors in our words: field, value, rule, remedy."""

import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ray_tl.errors import all_at_once
from ray_tl.registry import did_you_mean

_NUMBER = re.compile(r"[-+]?[0-9.]+")
M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], content: object, subject: str, further: Sequence[str] = ()) -> M:
    """`content` as `model`; raises `InvalidInput` with every broken rule at once, and `further` problems with them."""
    try:
        value = model.model_validate(content)
    except ValidationError as error:
        raise all_at_once(subject, [*explain(error, model), *further]) from error
    if further:
        raise all_at_once(subject, further)
    return value


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each broken rule: field, value, rule, and the nearest known name for an unknown one."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{where} is not known{did_you_mean(str(item['loc'][-1]), _siblings(model, item['loc']))}")
        else:
            rule = item["msg"].removeprefix("Value error, ") + _remedy(item["type"], item["input"])
            lines.append(f"{where}={item['input']!r}: {rule}." if where else rule)
    return lines


def _remedy(rule: str, value: object) -> str:
    """What to write instead, where a value of the wrong type shows what is meant."""
    if rule == "string_type" and not isinstance(value, list | dict):
        return "; put it in quotes"
    if rule.startswith("bool_"):
        return "; write true or false"
    if rule not in ("int_type", "float_type"):
        return ""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return "; write it without quotes"
    if isinstance(value, float) and value.is_integer():
        return f"; write {int(value)}"
    return "; write a whole number" if rule == "int_type" else "; write a number"


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
