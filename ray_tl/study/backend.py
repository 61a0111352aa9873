"""Where a study is kept: all that a store needs of it, whether that is a folder or a database by address."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ray_tl.errors import BrokenStudy

if TYPE_CHECKING:
    import sqlalchemy as sql

SPEC_FILE = "study.json"
CHAMPION_FILE = "champion.json"


class Backend(Protocol):
    """The database of one study, its small files, and its lock.

    Attributes:
        folder: Of its checkpoints and evidence.
        engine: Connections to the database; where it is missing, the first one fails.
    """

    folder: Path

    @property
    def engine(self) -> "sql.Engine": ...

    def for_reading(self) -> "Backend":
        """The same study to look at; it may be where nothing can be written."""

    @property
    def command_options(self) -> str:
        """Options such as ` --home FOLDER` that a command needs to find the study; empty if it needs none."""
        ...

    def create(self, name: str, spec: bytes) -> None:
        """An empty study; if it can't be made, nothing of it stays.

        Raises:
            InvalidInput: If there is one already.
        """

    def require_database(self) -> None:
        """Raise `BrokenStudy` where there is a spec without the database that belongs to it."""

    def read_file(self, name: str) -> bytes | None:
        """A small file; `None` if there is none."""

    def write_file(self, name: str, content: bytes) -> None:
        """Replace a small file in one step."""

    def place_of(self, name: str) -> str:
        """Where a small file is, for people; no password is shown."""

    def held(self, name: str, study_id: int) -> AbstractContextManager["sql.Connection"]:
        """Hold the study of this name; all that is written meanwhile is written through the connection.

        Raises:
            StudyBusy: If another process holds it.
        """

    def is_held(self, study_id: int) -> bool:
        """Whether any process holds the study."""

    def changed_at(self, study_id: int) -> float:
        """When the study was changed last, in seconds since 1970."""

    def using(self) -> AbstractContextManager[None]:
        """In it, errors of the database become ours."""

    def broken(self, what: str) -> BrokenStudy:
        """An error that says what is wrong with the study, and what is left to do."""
