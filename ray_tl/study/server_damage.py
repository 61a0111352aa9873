"""What a database server may refuse, as errors for users."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from ray_tl.errors import BrokenStudy, RayTLError, StorageFailed, StudyBusy
from ray_tl.study.address import Address

_CHECK = "check the address, and whether the server runs and lets this machine in"
_SIGN_IN = "check user and password; the password may be in the address, in ~/.pgpass, or in $PGPASSWORD"
_REMEDIES = {  # by how PostgreSQL's class or code of an error begins
    "28": _SIGN_IN,
    "3D": "make the database (createdb), or correct its name",
    "42501": "have the rights granted: CREATE on the schema, and all rights on the tables of Optuna in it",
    "25006": "it may only be read: give the address of the primary server",
    "53100": "the disk of the server is full: free some room there",
    "53300": "it has too many connections: raise max_connections, or end some",
    "53": "the server lacks memory or room: see its log",
}
_SAID = {  # by what a server or the driver says before there is a code
    "password": _SIGN_IN,
    "authentication": _SIGN_IN,
    "pg_hba": _SIGN_IN,
    "role": _SIGN_IN,
    "does not exist": _REMEDIES["3D"],
    "too many": _REMEDIES["53300"],
}
_WAITS = ("55P03", "40P01", "40001", "57014")


@contextmanager
def using_server(address: Address) -> Iterator[None]:
    """Errors of the database in the block become ours, without a password.

    Raises:
        StorageFailed: If it can't be reached, refuses, or the connection is lost.
        StudyBusy: If another process keeps it locked.
        BrokenStudy: If its tables are not those of Optuna.
    """
    try:
        yield
    except RayTLError:
        raise
    except Exception as error:
        cause = _cause(error)
        if cause is None:
            raise
        raise _ours(address, cause) from None  # what it is made of may hold the address


def _cause(error: BaseException | None) -> DBAPIError | None:
    """What the driver said, which SQLAlchemy and Optuna have wrapped."""
    while error is not None and not isinstance(error, DBAPIError):
        error = error.__cause__
    return error


def _ours(address: Address, error: DBAPIError) -> RayTLError:
    code = str(getattr(error.orig, "sqlstate", None) or "")
    said = address.hidden_in(" ".join(str(error.orig).split()))
    if code in _WAITS:
        return StudyBusy(f"{address}: {said}: another process is writing to it; wait for it, and try again.")
    if code.startswith("42") and code != "42501":
        return BrokenStudy(f"{address}: {said}; its tables are not those that this version of Optuna makes.")
    return StorageFailed(f"{address}: {said}; {_remedy(code, said, error.connection_invalidated)}.")


def _remedy(code: str, said: str, was_connected: bool) -> str:
    found = next((remedy for begin, remedy in _REMEDIES.items() if code.startswith(begin)), None)
    if found is None and not code:
        found = next((remedy for part, remedy in _SAID.items() if part in said.lower()), None)
    if found is not None:
        return found
    return "the connection was lost: once the server runs, go on with --resume" if was_connected else _CHECK
