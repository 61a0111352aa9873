"""The errors that a person sees.

RayTLError                      every error that the command line turns into one message
├── InvalidInput                something that a person stated breaks a rule          exit code 2
│   ├── UnknownName             a name that no registry, study or model answers to    exit code 3
│   ├── Unavailable             a score was asked for of evidence that is not there
│   └── BrokenStudy             a study's files are cut, damaged, or of another version
├── BrokenBundle                a model folder does not match its manifest            exit code 4
├── NoResources                 the cluster can't run what was asked                  exit code 5
├── StudyBusy                   another process is searching the same study           exit code 6
├── StorageFailed               a file or folder can't be written or read             exit code 1
│   └── NotShared               nodes of a cluster see different files
├── TrialFailed                 training broke down: not a number, out of memory      exit code 7
│   └── NotFinite               a loss, weight or output is not a finite number
└── Interrupted                 Ctrl-C; the message says how to go on                 exit code 130
"""

import errno
import os
from collections.abc import Iterable

_ELSEWHERE = "choose another place, for studies and models with --home or $RAY_TL_HOME"
_REMEDIES = {
    errno.ENOSPC: f"the disk is full: free some room, or {_ELSEWHERE}",
    errno.EDQUOT: f"your quota is used up: free some room, or {_ELSEWHERE}",
    errno.EACCES: f"change its permissions, or {_ELSEWHERE}",
    errno.EPERM: f"change its permissions, or {_ELSEWHERE}",
    errno.EROFS: f"it may only be read: {_ELSEWHERE}",
    errno.ENOTDIR: f"a file stands where a folder should be: remove it, or {_ELSEWHERE}",
    errno.EEXIST: f"something else stands there: remove it, or {_ELSEWHERE}",
    errno.EISDIR: "a folder stands where a file should be: give the path of a file",
    errno.ENOENT: f"check the path, or {_ELSEWHERE}",
    errno.EMFILE: "raise the number of open files, with ulimit -n",
}


class RayTLError(Exception):
    """Base of every error that is meant for a person; `exit_code` is what the command line ends with."""

    exit_code = 1


class InvalidInput(RayTLError, ValueError):
    """Something that a person stated breaks a rule; the message names field, value, rule and remedy."""

    exit_code = 2


class UnknownName(InvalidInput):
    """A name that nothing answers to; the message lists the choices."""

    exit_code = 3


class Unavailable(InvalidInput):
    """A score that what is known of a trial does not give; the message names the score, what is missing and why."""


class BrokenStudy(InvalidInput):
    """The files of a study are not what was written; the message says which, and what to do."""


class BrokenBundle(RayTLError):
    """A model folder is incomplete or differs from its manifest."""

    exit_code = 4


class NoResources(RayTLError):
    """The cluster lacks the processors or accelerators that were asked for."""

    exit_code = 5


class StudyBusy(RayTLError):
    """Another process holds the study."""

    exit_code = 6


class StorageFailed(RayTLError):
    """The system refuses to write or read a file or folder: no permission, no room, no such place."""


class NotShared(StorageFailed):
    """Nodes of a cluster see different files at the same path or address."""


class TrialFailed(RayTLError):
    """A trial can't go on."""

    exit_code = 7


class NotFinite(TrialFailed):
    """Training diverged: another learning rate or weight of a loss may not."""


class Interrupted(RayTLError):
    """A person pressed Ctrl-C."""

    exit_code = 130


def all_at_once(subject: str, problems: Iterable[str]) -> InvalidInput:
    """One error for every problem found in `subject`, so that a person mends a file in one go."""
    lines = list(problems)
    if len(lines) == 1:
        return InvalidInput(f"{subject}: {lines[0]}")
    return InvalidInput("\n".join([f"{subject}: {len(lines)} problems", *(f"  - {line}" for line in lines)]))


def storage_failure(error: OSError, subject: str | None = None) -> StorageFailed:
    """What the system said, of which path, and what to do.

    Args:
        error: Of the system.
        subject: What failed; the path in `error` by default.
    """
    named = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = subject or " or ".join(dict.fromkeys(named))
    said = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "")
    return StorageFailed(f"{where + ': ' if where else ''}{said}{'; ' if remedy else ''}{remedy}.")
