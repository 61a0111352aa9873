"""The driver of a search in a process of its own, started again whenever it has ended before its time."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.on_ray.clusters import AUTHENTICATION

SLOT_LOST = "It is started again where there is room."
QUEUE_LOST = "the trial queue was lost; the search goes on with a new one"
HEAD_GONE = "the head of the cluster is gone"


class Driver:
    """`ray-tl search --resume-or-start`, as often as it takes; what it says goes into a file for each start.

    Args:
        folder: For what it says.
        arguments: Of the search, without the address.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self._folder, self._arguments = folder, arguments
        self.starts = 0
        self._process: subprocess.Popen | None = None

    def start(self, address: str) -> None:
        self.starts += 1
        command = [sys.executable, "-c", "from ray_tl.cli import main; main()", "search", *self._arguments]
        command += ["--resume-or-start", "--json", "--address", address]
        environment = {**os.environ, AUTHENTICATION: "disabled", "COLUMNS": "1000"}
        with self._file("out").open("w") as out, self._file("err").open("w") as err:
            self._process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)

    @property
    def status(self) -> int | None:
        """With which it ended; `None` while it runs."""
        assert self._process is not None
        return self._process.poll()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        """To users, since its last start."""
        return self._file("err").read_text()

    def champion(self) -> int | None:
        """That it printed in the end."""
        line = self._file("out").read_text().strip().splitlines()[-1]
        return int(json.loads(line)["champion"]["trial"])

    def num_slots_lost(self) -> int:
        return self._count(SLOT_LOST)

    def num_queues_lost(self) -> int:
        return self._count(QUEUE_LOST)

    def _count(self, words: str) -> int:
        return sum(path.read_text().count(words) for path in self._folder.glob("driver-*.err"))

    def _file(self, kind: str) -> Path:
        return self._folder / f"driver-{self.starts:02d}.{kind}"
