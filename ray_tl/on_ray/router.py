"""The one application that listens: sends each request to the live version.

Which version is live is the router's `user_config`: Serve keeps it, hands it to a router that restarts, and changes it
in place, so a switch neither restarts the router nor loads weights. The router holds nothing else.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from ray_tl.on_ray.http_api import Answer, LiveVersion, Overloaded, Refusal, Unavailable, build_http_api

MODEL_DEPLOYMENT = "Model"
HEALTH_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 60.0


class Router:
    """A Serve ingress; `reconfigure` only stores, and so can't fail."""

    def __init__(self) -> None:
        self._in_flight: Counter[str] = Counter()

    def reconfigure(self, user_config: Mapping[str, object]) -> None:
        self._live = LiveVersion(**user_config)  # type: ignore[arg-type]

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_http_api(self)

    @property
    def live(self) -> LiveVersion:
        return self._live

    async def classify(self, image: bytes) -> Answer | Refusal:
        """The live version's answer, asked once more if the replica that had the request is gone."""
        try:
            return await self._ask(image)
        except RayError:
            return await self._ask_again(image)

    async def is_healthy(self) -> bool:
        """A version with a full queue is busy, not ill."""
        try:
            ping = _model(self.live.app).ping.remote()
            return await asyncio.wait_for(ping, HEALTH_TIMEOUT_S) == self.live.version
        except BackPressureError:
            return True
        except (RayServeException, RayError, TimeoutError):
            return False

    async def live_app(self) -> str:
        return self.live.app

    async def drain(self, app: str) -> None:
        """Return once no request waits for `app`."""
        while self._in_flight[app]:
            await asyncio.sleep(0.01)
        del self._in_flight[app]

    async def _ask(self, image: bytes) -> Answer | Refusal:
        app = self.live.app
        self._in_flight[app] += 1
        try:
            return await asyncio.wait_for(_model(app).classify.remote(image), ANSWER_TIMEOUT_S)
        except BackPressureError as error:
            raise Overloaded from error
        except (RayServeException, TimeoutError) as error:
            raise Unavailable("the live version does not answer; try again.") from error
        finally:
            self._in_flight[app] -= 1

    async def _ask_again(self, image: bytes) -> Answer | Refusal:
        try:
            return await self._ask(image)
        except RayError as error:
            raise Unavailable("the live version failed; its log says why.") from error


@lru_cache(maxsize=4)
def _model(app: str) -> DeploymentHandle:
    return serve.get_deployment_handle(MODEL_DEPLOYMENT, app)
