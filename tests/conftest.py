"""The order of the tests; and for every test that starts Ray a temporary folder, its name short enough for sockets."""

import shutil
import tempfile
from collections.abc import Iterator

import pytest

LONGEST_FIRST = ("test_quickstart.py", "test_readme.py", "test_search.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that two workers end at about the same time."""
    items.sort(key=lambda item: LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else 9)


@pytest.fixture(autouse=True)
def ray_folder_of_its_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.node.get_closest_marker("ray") is None:
        yield
        return
    folder = tempfile.mkdtemp(prefix="rt")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    yield
    shutil.rmtree(folder, ignore_errors=True)
