"""Where studies are kept."""

from pathlib import Path

import pytest

from ray_tl.study.studies import Studies, studies_at


@pytest.fixture(params=["folder", "database"])
def studies(request: pytest.FixtureRequest, tmp_path: Path) -> Studies:
    """An empty place for studies."""
    address = request.getfixturevalue("database") if request.param == "database" else None
    return studies_at(tmp_path, address)
