"""The address of a database, which may hold a password: it is shown without."""

from dataclasses import dataclass
from importlib.util import find_spec

import sqlalchemy as sql
from sqlalchemy.exc import ArgumentError

from ray_tl.errors import InvalidInput

EXAMPLE = "postgresql://user@host:5432/database"
_KINDS = ("postgresql", "postgres", "postgresql+psycopg")
_SECRETS = ("password", "sslpassword")
HIDDEN = "***"


@dataclass(frozen=True, repr=False)
class Address:
    """Of a PostgreSQL database; as text it shows no password.

    Attributes:
        url: As SQLAlchemy takes it.
    """

    url: sql.URL

    @classmethod
    def parsed(cls, text: str) -> "Address":
        """From `postgresql://user:password@host:port/database`, each part but the first optional.

        Raises:
            InvalidInput: If it is not the address of a PostgreSQL database; the message doesn't repeat it, as what is
                mistaken for a part of it may be a password.
        """
        try:
            url = sql.make_url(text)
        except (ArgumentError, ValueError):
            raise InvalidInput(_not_an_address("it can't be taken apart")) from None
        if url.drivername not in _KINDS:
            kind = url.drivername if url.drivername.isidentifier() else "another"
            raise InvalidInput(
                f"storage: databases of the kind {kind!r} hold no studies; give one of PostgreSQL, {EXAMPLE}, or leave "
                "--storage out (and $RAY_TL_STORAGE) for a folder."
            )
        if text.count("@") > 1 or "/" in (url.database or ""):
            raise InvalidInput(_not_an_address("it has an @ or / too many"))
        return cls(url.set(drivername="postgresql+psycopg"))

    def require_driver(self) -> None:
        """Raise `InvalidInput` unless Python can speak to the database."""
        if find_spec("psycopg") is None:
            raise InvalidInput(
                f"storage={self}: psycopg is not installed; get it with: pip install 'ray-tl[postgresql]'"
            )

    def hidden_in(self, message: str) -> str:
        """A message that may repeat a password, without it."""
        for secret in self._secrets():
            message = message.replace(secret, HIDDEN)
        return message

    def __str__(self) -> str:
        query = {key: value for key, value in self.url.query.items() if key not in _SECRETS}
        shown = self.url.set(drivername="postgresql", query=query)
        return shown.render_as_string(hide_password=True)

    __repr__ = __str__

    def _secrets(self) -> list[str]:
        stated = [self.url.password, *(self.url.query.get(key) for key in _SECRETS)]
        return [secret for secret in stated if isinstance(secret, str) and secret]


def _not_an_address(why: str) -> str:
    return (
        f"storage is not an address like {EXAMPLE}: {why}; write @ : / ? # and % of a password as %40 %3A %2F %3F %23 "
        "and %25, or leave it to ~/.pgpass or $PGPASSWORD."
    )
