"""Domains for real searches."""

from pathlib import Path

import pytest

from tests.on_ray.searching import squares


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return squares(tmp_path)
