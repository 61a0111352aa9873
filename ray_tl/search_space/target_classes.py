"""What users state of the classes of a target: nothing, that they are the source's, or the share of each."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator

from ray_tl.errors import InvalidInput
from ray_tl.registry import did_you_mean
from ray_tl.strict_json import parse_json

WORDS = ("same", "subset", "unknown")
TOLERANCE = 1e-3  # shares are stated with a few digits
_RULE = f"must be {', '.join(WORDS)}, or the share of each class, {{cat: 0.3, dog: 0.7}}"


def _checked(value: object) -> object:
    """As it is; raises one `ValueError` for everything that is wrong with it."""
    if value in WORDS and isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(_RULE)
    if problems := [*_name_problems(value), *_share_problems(value)]:
        raise ValueError("; ".join(problems))
    return {str(name): float(share) for name, share in value.items()}


TargetClasses = Annotated[Literal["same", "subset", "unknown"] | dict[str, float], BeforeValidator(_checked)]
"""`same`: the target has the source's shares, and nothing is estimated. `subset`: some classes of the source may be
absent. `unknown`: shares are estimated. Or the share of each class by its name; a class left out has none."""


def parse_target_classes(text: str) -> Literal["same", "subset", "unknown"] | dict[str, float]:
    """What is stated on a command line: `same`, `subset`, `unknown`, `cat=0.3,dog=0.7` or `{"cat": 0.3, "dog": 0.7}`.

    Raises:
        InvalidInput: If it is none of these, with everything that is wrong with it.
    """
    try:
        value = _checked(_read(text.strip()))
    except ValueError as error:
        raise InvalidInput(f"data.target_classes={text!r}: {error}.") from error
    return value  # type: ignore[return-value]  # `_checked` gives what `TargetClasses` says


def target_class_problems(target_classes: str | Mapping[str, float], classes: Sequence[str]) -> list[str]:
    """One line for each class that is named and that the source lacks.

    Args:
        target_classes: As validated.
        classes: Names of the source's classes.
    """
    if isinstance(target_classes, str):
        return []
    unknown = [name for name in target_classes if name not in classes]
    return [
        f"data.target_classes: {name!r} is no class of the source{did_you_mean(name, list(classes))}"
        for name in unknown
    ]


def _read(text: str) -> object:
    if text.startswith("{"):
        return parse_json(text)
    if "=" not in text:
        return text
    pairs = [part.rpartition("=") for part in text.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is given twice; keep one")
    return {name: _number(share) for name, (_, _, share) in zip(names, pairs, strict=True)}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _name_problems(shares: Mapping[object, object]) -> list[str]:
    wrong = [repr(name) for name in shares if not isinstance(name, str) or not name]
    return [f"{', '.join(wrong)}: names of classes must be texts; put them in quotes"] if wrong else []


def _share_problems(shares: Mapping[object, object]) -> list[str]:
    wrong = [f"{name}={share!r}" for name, share in shares.items() if not _is_share(share)]
    if wrong:
        return [f"{', '.join(wrong)}: shares must be numbers in 0..1"]
    total = math.fsum(float(str(share)) for share in shares.values())
    if abs(total - 1) > TOLERANCE:
        return [f"the shares sum to {total:.4g} and must sum to 1; a class left out has the share 0"]
    return []


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
