"""Dashboards and events into a running Grafana, through `grafana-api`."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NoReturn
from urllib.parse import urlsplit

import requests
from grafana_api.grafana_api import GrafanaClientError, GrafanaException
from grafana_api.grafana_face import GrafanaFace

from ray_tl.errors import InvalidInput, RayTLError
from ray_tl.observability.dashboards import EVENT_TAG, FOLDER_TITLE, FOLDER_UID, Json, search_dashboard

# Grafana counts and migrates these itself.
_OWN_FIELDS = frozenset({"id", "version", "schemaVersion"})
_SHOWN = 10


class GrafanaFailed(RayTLError):
    """Grafana does not answer, refuses, or (`check`) shows something else than what this version generates."""


@dataclass(frozen=True)
class Action:
    """What a push does, or would do, to one folder or dashboard; `differences` says why it is `updated`."""

    subject: str
    verb: Literal["created", "updated", "unchanged"]
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = [f"and {len(self.differences) - _SHOWN} more"] if len(self.differences) > _SHOWN else []
        return "\n    ".join([f"{self.verb:<9} {self.subject}", *self.differences[:_SHOWN], *more])


def push(url: str, credentials: str | tuple[str, str], dry_run: bool = False, check: bool = False) -> list[Action]:
    """Bring Grafana's folder and dashboards to what this version generates; a second push changes nothing.

    Args:
        url: Address of Grafana, with its path prefix if it has one.
        credentials: A service account token, or user and password.
        dry_run: Say what would be done, and do nothing.
        check: As `dry_run`, and fail if anything would be done.

    Raises:
        GrafanaFailed: If Grafana does not answer or refuses; with `check` also if it differs.
        InvalidInput: If `url` is no http address.
    """
    grafana = Grafana(url, credentials)
    actions = [grafana.folder_action(), grafana.dashboard_action(search_dashboard())]
    due = [action for action in actions if action.verb != "unchanged"]
    if check and due:
        raise GrafanaFailed("\n".join([f"Grafana at {url} differs; push to mend it.", *map(str, due)]))
    if due and not (dry_run or check):
        grafana.apply(search_dashboard())
    return actions


class Grafana:
    """One connection to Grafana, and the only user of `grafana-api`.

    Make it where it is used: it can't be pickled, so it must not be caught by a function that Ray ships.
    """

    def __init__(self, url: str, credentials: str | tuple[str, str], timeout_s: float = 5.0) -> None:
        self.url = url
        self._face = _face(url, credentials, timeout_s)

    def folder_action(self) -> Action:
        """What is due to the folder; its title belongs to whoever renamed it."""
        found = self._get(f"/folders/{FOLDER_UID}")
        return Action(f"folder {FOLDER_TITLE!r}", "created" if found is None else "unchanged")

    def dashboard_action(self, dashboard: Json) -> Action:
        """What is due to a dashboard."""
        subject = f"dashboard {dashboard['title']!r}"
        found = self._get(f"/dashboards/uid/{dashboard['uid']}")
        if found is None:
            return Action(subject, "created")
        wanted: Json = {"dashboard": dashboard, "meta": {"folderUid": FOLDER_UID}}
        changes = tuple(differences(found, wanted))
        return Action(subject, "updated" if changes else "unchanged", changes)

    def apply(self, dashboard: Json) -> None:
        """Create the folder if there is none, and put the dashboard into it."""
        body = {"dashboard": dashboard, "folderUid": FOLDER_UID, "overwrite": True, "message": "ray-tl"}
        if self.folder_action().verb == "created":
            with self._clear_errors():
                self._face.folder.create_folder(FOLDER_TITLE, FOLDER_UID)
        with self._clear_errors():
            self._face.dashboard.update_dashboard(body)

    def annotate(self, text: str, tags: Sequence[str] = ()) -> None:
        """Mark an event (new best, promotion, rollback) on the search dashboard, now."""
        with self._clear_errors():
            self._face.api.POST("/annotations", json={"text": text, "tags": [EVENT_TAG, *tags]})

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Grafana connection can't be pickled; make one where it is used")

    def _get(self, path: str) -> Json | None:
        with self._clear_errors():
            try:
                return self._face.api.GET(path)
            except GrafanaClientError as error:
                if error.status_code == 404:
                    return None
                raise

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except GrafanaException as error:
            raise GrafanaFailed(self._refusal(error)) from error
        except requests.exceptions.JSONDecodeError as error:
            raise GrafanaFailed(f"{self.url} answers, but not as Grafana does; check the address.") from error
        except requests.exceptions.RequestException as error:
            reason = type(error).__name__
            raise GrafanaFailed(
                f"Grafana at {self.url} does not answer ({reason}); start it, or check the address."
            ) from error

    def _refusal(self, error: GrafanaException) -> str:
        if error.status_code in (401, 403):
            return (
                f"Grafana at {self.url} refuses these credentials ({error.status_code}); "
                "give a service account token with the role Editor, or user and password."
            )
        return f"Grafana at {self.url} fails: {error.message}"


def _face(url: str, credentials: str | tuple[str, str], timeout_s: float) -> GrafanaFace:
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise InvalidInput("the address of Grafana holds a password; give user and password apart from it.")
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[^:]+(:\d+)?", parts.netloc):
        raise InvalidInput(f"url={url!r} is not an address of Grafana; give one such as http://localhost:3000.")
    prefix = parts.path.strip("/") + "/" if parts.path.strip("/") else ""
    return GrafanaFace(credentials, parts.hostname, parts.port, prefix, parts.scheme, timeout=timeout_s)


def differences(found: object, wanted: object, path: str = "") -> Iterator[str]:
    """Where `found` differs from what `wanted` states, as lines; what Grafana adds of its own is no difference."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(wanted.keys() - (_OWN_FIELDS if path == "dashboard" else ())):
            yield from differences(found.get(key), wanted[key], f"{path}.{key}".lstrip("."))
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from differences(one, other, f"{path}[{index}]")
    elif found != wanted:
        yield f"{path}: {_short(found)} -> {_short(wanted)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
