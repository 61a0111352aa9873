"""Whether what is installed is what this version of ray_tl was made for."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata

from packaging.requirements import Requirement

PACKAGES = ("ray-tl", "torchvision")  # torchvision fits one torch alone, and says which


def requirement_problems(packages: Sequence[str] = PACKAGES) -> list[str]:
    """What is missing or does not fit, in words; a package that is not installed itself asks for nothing."""
    required = {package: _requirements(package) for package in packages}
    installed = {item.name: _version(item.name) for items in required.values() for item in items}
    return list(unmet(required, installed))


def unmet(required: Mapping[str, Sequence[Requirement]], installed: Mapping[str, str | None]) -> Iterator[str]:
    """A line for every requirement that is not met.

    Args:
        required: By the package that asks for it.
        installed: Versions by name; `None` for what is missing.
    """
    for package, items in required.items():
        for item in items:
            version = installed[item.name]
            if version is None or not item.specifier.contains(version, prereleases=True):
                found = "is missing" if version is None else f"{version} is installed"
                yield f"{item.name} {found}, but {package} needs {item.name}{item.specifier}; install that version."


def _requirements(package: str) -> list[Requirement]:
    """Those without conditions and those whose conditions hold here; of extras none."""
    try:
        stated = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []
    items = [Requirement(line) for line in stated]
    return [item for item in items if item.marker is None or item.marker.evaluate({"extra": ""})]


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
