"""The order of the tests; a folder for every test that starts Ray, its name short enough for sockets; odd disks."""

import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.postgres import Server, programs

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


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system can't be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # a failed database may still be open


@pytest.fixture
def only_readable() -> Iterator[Callable[[Path], None]]:
    """Makes all of a folder immutable, which binds root too."""
    frozen: list[Path] = []

    def freeze(folder: Path) -> None:
        frozen.append(folder)
        if subprocess.run(["chattr", "-R", "+i", folder], capture_output=True, check=False).returncode:
            pytest.skip("files can't be made immutable here")

    yield freeze
    for folder in frozen:
        subprocess.run(["chattr", "-R", "-i", folder], capture_output=True, check=False)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server."""
    if programs() is None or find_spec("psycopg") is None:
        pytest.skip("needs PostgreSQL (Debian: postgresql) and psycopg")
    server = Server.started()
    yield server
    server.remove()


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """Address of an empty database."""
    name = f"t{secrets.token_hex(6)}"
    postgres.execute(f"CREATE DATABASE {name}")
    yield postgres.address(name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
