"""Domains for real searches, and one mode of tokens for all Rays of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.on_ray.clusters import AUTHENTICATION
from tests.on_ray.searching import squares


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return squares(tmp_path)


@pytest.fixture(scope="package", autouse=True)
def no_tokens() -> Iterator[None]:
    """Ray remembers the first mode in a process for good: a cluster with another can't be used from it any more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(AUTHENTICATION, "disabled")
        yield
