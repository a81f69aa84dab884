"""Before and after every request: who may ask, what came of it, what a browser may do with it."""

from __future__ import annotations

import time
from collections.abc import Set

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentcast.errors import printable
from latentcast.serving.access import allowed
from latentcast.serving.answers import Problem
from latentcast.serving.metrics import Metrics

OPEN = ("/", "/health")
"""Paths that need no token: they say nothing of the model and take nothing in."""


def problem(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal with its reason."""
    content = Problem(error=printable(reason)).model_dump_json()
    return Response(content, status, headers, media_type="application/json")


class Guard:
    """Around an application.

    Args:
        app: what answers.
        token: that requests must have; None where it is reached from this machine alone.
        metrics: of the server.
        paths: that exist; all others are one in the metrics.
    """

    def __init__(self, app: ASGIApp, token: str | None, metrics: Metrics, paths: Set[str]) -> None:
        self._app, self._token, self._metrics, self._paths = app, token, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        label = path if path in self._paths else "other"

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
                seconds = time.perf_counter() - started
                self._metrics.request(label, message["status"], seconds)
            await send(message)

        app = self._app if self._may(path, Headers(scope=scope)) else self._refusal()
        await app(scope, receive, sent)

    def _may(self, path: str, headers: Headers) -> bool:
        if self._token is not None and path in OPEN:
            return True
        return allowed(self._token, headers.get("authorization", ""), headers.get("host", ""))

    def _refusal(self) -> Response:
        why = "Authorization: is no 'Bearer TOKEN' of this server"
        if self._token is None:
            why = "Host: is not this machine; start the server with --token for others"
        return problem(401, why, {"WWW-Authenticate": "Bearer"})
