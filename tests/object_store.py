"""An S3 server on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.on_ray.clusters import free_port

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "any", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def object_store() -> Iterator[int]:
    """The port of a server with one bucket; the environment holds credentials for it meanwhile."""
    pytest.importorskip("moto")
    pytest.importorskip("flask_cors")
    port, before = free_port(), dict(os.environ)
    command = [sys.executable, "-m", "moto.server", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ.update(CREDENTIALS)
    try:
        _make_bucket(f"http://127.0.0.1:{port}/{BUCKET}")
        yield port
    finally:
        server.kill()
        server.wait()
        os.environ.clear()
        os.environ.update(before)


def s3_address(port: int, path: str = "ray_tl") -> str:
    return f"s3://{BUCKET}/{path}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


def _make_bucket(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urlopen(Request(url, method="PUT")).close()
            return
        except URLError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
