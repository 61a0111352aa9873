"""A PostgreSQL server of its own for tests, in a temporary folder, on a free port of this machine."""

import os
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

USER, PASSWORD = "tester", "pass@w:rd/1"
QUOTED = "pass%40w%3Ard%2F1"


def programs() -> Path | None:
    """Folder of `initdb` and `pg_ctl`; Debian keeps them apart, as several versions may be installed."""
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *map(Path, os.environ["PATH"].split(":"))]
    return next((folder for folder in reversed(found) if (folder / "initdb").exists()), None)


@dataclass(frozen=True)
class Server:
    folder: Path
    port: int

    @classmethod
    def started(cls) -> "Server":
        folder = Path(tempfile.mkdtemp(prefix="pg"))
        server = cls(folder, free_port())
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
            (folder / "password").chmod(0o644)
        arguments = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={folder / 'password'}", "--no-sync"]
        server._run("initdb", "-D", str(folder / "data"), "--encoding=UTF8", "--no-locale", *arguments)
        server.start()
        return server

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run(
            "pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o", options, "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", mode, "stop")

    def remove(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, database: str, password: str = QUOTED) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, command: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.address(database), autocommit=True) as connection:
            connection.execute(command)

    def _run(self, program: str, *arguments: str) -> None:
        """As somebody who is not root, which PostgreSQL refuses to be."""
        folder = programs()
        assert folder is not None
        who = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        done = subprocess.run(
            [*who, str(folder / program), *arguments],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,  # a pipe would be held open by the server
            stderr=(self.folder / "errors").open("w"),
            check=False,
        )
        assert done.returncode == 0, (self.folder / "errors").read_text()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
