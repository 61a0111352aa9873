"""Where studies and models live."""

import os
import shlex
import sys
from pathlib import Path


def home_folder(home: Path | str | None = None) -> Path:
    """The given folder, else `$RAY_TL_HOME`, else `~/.ray_tl`; on a cluster, on storage that all nodes share."""
    return Path(home or os.environ.get("RAY_TL_HOME") or Path.home() / ".ray_tl").expanduser().absolute()


def studies_folder(home: Path | str | None = None) -> Path:
    return home_folder(home) / "studies"


def home_option(studies: Path) -> str:
    """` --home FOLDER` for a command about a study of these, where that is not the folder it would look in anyway."""
    return "" if studies == studies_folder() else f" --home {shlex.quote(str(studies.parent))}"


def storage_address(storage: str | None = None) -> str | None:
    """The given address of a database of studies, else `$RAY_TL_STORAGE`; `None` if studies are kept in folders."""
    return storage or os.environ.get("RAY_TL_STORAGE") or None


def models_folder(home: Path | str | None = None) -> Path:
    return home_folder(home) / "models"


def shipped_file(relative: str) -> Path:
    """A file that comes with the project, `search_spaces/digits.yaml`: from the checkout, else from the installation.

    Raises:
        FileNotFoundError: If the installation is incomplete.
    """
    places = [Path(__file__).parents[1], Path(sys.prefix) / "share" / "ray_tl"]
    for place in places:
        if (place / relative).is_file():
            return place / relative
    raise FileNotFoundError(f"{relative} is neither in {places[0]} nor in {places[1]}; install ray_tl again.")
