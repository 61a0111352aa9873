"""Pydantic's errors in our words: field, value, rule, remedy."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ray_tl.errors import all_at_once
from ray_tl.registry import did_you_mean

M = TypeVar("M", bound=BaseModel)


def validated(model: type[M], content: object, subject: str) -> M:
    """`content` as `model`; raises `InvalidInput` with every broken rule at once."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise all_at_once(subject, explain(error, model)) from error


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
