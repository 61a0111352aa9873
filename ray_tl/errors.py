"""The errors that a person sees.

RayTLError                      every error that the command line turns into one message
├── InvalidInput                something that a person stated breaks a rule          exit code 2
│   └── UnknownName             a name that no registry, study or model answers to    exit code 3
├── BrokenBundle                a model folder does not match its manifest            exit code 4
├── NoResources                 the cluster can't run what was asked                  exit code 5
├── StudyBusy                   another process is searching the same study           exit code 6
├── TrialFailed                 training broke down: not a number, out of memory      exit code 7
└── Interrupted                 Ctrl-C; the message says how to go on                 exit code 130
"""

from collections.abc import Iterable


class RayTLError(Exception):
    """Base of every error that is meant for a person; `exit_code` is what the command line ends with."""

    exit_code = 1


class InvalidInput(RayTLError, ValueError):
    """Something that a person stated breaks a rule; the message names field, value, rule and remedy."""

    exit_code = 2


class UnknownName(InvalidInput):
    """A name that nothing answers to; the message lists the choices."""

    exit_code = 3


class BrokenBundle(RayTLError):
    """A model folder is incomplete or differs from its manifest."""

    exit_code = 4


class NoResources(RayTLError):
    """The cluster lacks the processors or accelerators that were asked for."""

    exit_code = 5


class StudyBusy(RayTLError):
    """Another process holds the study."""

    exit_code = 6


class TrialFailed(RayTLError):
    """A trial can't go on."""

    exit_code = 7


class Interrupted(RayTLError):
    """A person pressed Ctrl-C."""

    exit_code = 130


def all_at_once(subject: str, problems: Iterable[str]) -> InvalidInput:
    """One error for every problem found in `subject`, so that a person mends a file in one go."""
    lines = list(problems)
    if len(lines) == 1:
        return InvalidInput(f"{subject}: {lines[0]}")
    return InvalidInput("\n".join([f"{subject}: {len(lines)} problems", *(f"  - {line}" for line in lines)]))
