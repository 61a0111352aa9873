"""Whether the head of a cluster is there; asked without Ray, whose own functions wait for it."""

import socket
import threading
from collections.abc import Callable

import ray

LOOK_EVERY_S = 3.0
CONNECTING_S = 5.0
MISSES = 3


class HeadWatch(threading.Thread):
    """Calls `gone` once when the head of the cluster has not been there for some ten seconds.

    Ray ends a driver a minute after that, from within and without a word to users.

    Args:
        gone: What to do, without Ray.
    """

    def __init__(self, gone: Callable[[], None]) -> None:
        super().__init__(name="head-watch", daemon=True)
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._address, self._gone = (host.strip("[]"), int(port)), gone
        self._ended = threading.Event()

    def run(self) -> None:
        misses = 0
        while misses < MISSES:
            if self._ended.wait(LOOK_EVERY_S):
                return
            misses = 0 if answers(self._address) else misses + 1
        self._gone()

    def end(self) -> None:
        """Stop looking; not waited for."""
        self._ended.set()


def answers(address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection(address, CONNECTING_S):
            return True
    except OSError:
        return False
