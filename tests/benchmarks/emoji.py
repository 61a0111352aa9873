"""Emoji of two vendors as image folders: a natural shift of style, nine classes, about 1,900 drawings each.

    python tests/benchmarks/emoji.py FOLDER [--vendors google twitter emojione]

Fetches `emoji-datasource-VENDOR`, or `emojione-assets` beside one of them, from the npm registry (needs `npm`) and
writes FOLDER/VENDOR/{train,test}/CLASS/*.png.
Emoji with an even first code point train, those with an odd one test: no drawing of a test emoji is ever seen with its
label, of whichever vendor. A folder that is there is left as it is.
"""

import argparse
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "16.0.0"
EMOJIONE = "emojione-assets@4.5.0"


def prepare(folder: Path, vendor: str) -> Path:
    """Write the folders of one vendor, whole or not at all; gives FOLDER/VENDOR."""
    done = folder / vendor
    if done.is_dir():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        package = _fetch(Path(name), vendor)
        for entry in json.loads((package / "emoji.json").read_text()):
            image = package / _image_of(entry, vendor)
            if entry["category"] != "Component" and image.is_file():
                _copy(image, Path(name) / "images" / _split(entry["unified"]) / _class(entry["category"]))
        (Path(name) / "images").rename(done)
    return done


def _image_of(entry: dict[str, str], vendor: str) -> str:
    if vendor != "emojione":
        return f"img/{vendor}/64/{entry['image']}"
    return f"png/64/{entry['unified'].lower().replace('-fe0f', '')}.png"  # named without the variation selector


def _fetch(folder: Path, vendor: str) -> Path:
    """The unpacked package, with the list of all emoji."""
    if vendor != "emojione":
        return _unpacked(folder, f"emoji-datasource-{vendor}@{VERSION}")
    names = (_unpacked(folder, f"emoji-datasource-google@{VERSION}") / "emoji.json").read_bytes()
    shutil.rmtree(folder / "package")
    package = _unpacked(folder, EMOJIONE)
    (package / "emoji.json").write_bytes(names)
    return package


def _unpacked(folder: Path, package: str) -> Path:
    command = ["npm", "pack", "--silent", package]
    archive = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
    with tarfile.open(folder / archive) as content:
        content.extractall(folder, filter="data")
    return folder / "package"


def _split(unified: str) -> str:
    return "test" if int(unified.split("-")[0], 16) % 2 else "train"


def _class(category: str) -> str:
    return category.replace(" & ", "_").replace(" ", "_")


def _copy(image: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(image, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vendors", nargs="+", default=["google", "twitter"])
    options = parser.parse_args()
    for vendor in options.vendors:
        print(prepare(options.folder, vendor))


if __name__ == "__main__":
    main()
