"""A hub of models on loopback: as much of the protocol as its client speaks to fetch the files of one model."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

REVISION = "5f" * 20
LARGE = (".safetensors", ".bin")  # kept by SHA-256, as the hub keeps large files


@contextmanager
def hub(name: str, folder: Path, token: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve the files of `folder` as the model `name`; gives the address, and the paths of files that were fetched.

    Args:
        token: Without it in the request, the model is as good as not there.
    """
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            if token is not None and self.headers.get("authorization") != f"Bearer {token}":
                self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
            elif path in (f"api/models/{name}", f"api/models/{name}/revision/main"):
                siblings = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                told = {"id": name, "modelId": name, "sha": REVISION, "private": False, "siblings": siblings}
                self._send(200, json.dumps(told).encode(), {}, with_body)
            elif path.startswith(f"api/models/{name}/tree/"):
                self._send(200, json.dumps([_entry(file) for file in sorted(folder.iterdir())]).encode(), {}, with_body)
            elif path.startswith(f"{name}/resolve/"):
                file = folder / path.rpartition("/")[2]
                if with_body:
                    fetched.append(file.name)
                self._send(200, file.read_bytes(), {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": REVISION}, with_body)
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entry(file: Path) -> dict[str, object]:
    size, etag = file.stat().st_size, _etag(file)
    large = {"lfs": {"oid": etag, "size": size, "pointerSize": 134}} if file.suffix in LARGE else {}
    return {"type": "file", "path": file.name, "size": size, "oid": etag, **large}


def _etag(file: Path) -> str:
    algorithm = "sha256" if file.suffix in LARGE else "sha1"
    return hashlib.new(algorithm, file.read_bytes(), usedforsecurity=False).hexdigest()
