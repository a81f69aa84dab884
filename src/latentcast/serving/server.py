"""The server itself: what is checked before it listens, and how it is started and stopped."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentcast.errors import LatentcastError, missing_extra
from latentcast.serving.access import TOKEN, check_access
from latentcast.serving.limits import Limits

if TYPE_CHECKING:
    import uvicorn

CONNECTIONS = 1024
"""At the same time; beyond that they are turned away before a byte is read."""


def server(
    artifact: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token: str | None = None,
    index: Path | None = None,
    device: str = "auto",
    layer: str | None = None,
    pooling: str = "mean",
    limits: Limits | None = None,
    say: Callable[[str], None] = print,
) -> uvicorn.Server:
    """A server that is ready to ``run()``.

    Args:
        artifact: run, exported file or folder, or a model that ships.
        host: address to listen at; one that others reach needs a token.
        port: 0 takes a free one.
        token: that a request must have; by default that of the environment.
        index: store or table of ``latentcast embed`` in which neighbours are found.
        device: to compute on.
        layer: that embeddings are read from; by default the encoder's own.
        pooling: of its tokens.
        limits: of size, time and number.
        say: is told where it listens, and what becomes of uploads.

    Raises:
        LatentcastError: no such artifact; others could reach it without a token; a package of the
            extra ``serve`` is missing.
    """
    token = token or os.environ.get(TOKEN) or None
    check_access(host, token)
    try:
        import uvicorn

        from latentcast.serving.app import application
        from latentcast.serving.service import Service
    except ImportError as error:
        name = (error.name or "fastapi").partition(".")[0]
        if name == "latentcast":
            raise
        raise missing_extra(name.replace("_", "-"), "serve", "serving") from error
    from latentcast.serving.model import Served

    served = Served(artifact, device, layer, pooling)
    if index is not None:
        served.search(index)
    service = Service(served, limits or Limits())
    if not service.uploads.in_memory:
        say(f"uploads are files in {service.uploads.folder} while they are read: perhaps on a disk")
    config = uvicorn.Config(
        application(service, token), host, port, log_level="warning", access_log=False,
        server_header=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(artifact: str | Path, host: str, port: int, **how: Any) -> None:
    """Serve until it is stopped; the arguments are those of :func:`server`.

    Raises:
        LatentcastError: what :func:`server` refuses, or the port is taken.
    """
    listening = _listening(host, port)
    say = how["say"]
    with listening:
        made = server(artifact, host, port, **how)
        address, number = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        say(f"http://{shown}:{number}/ (Ctrl-C stops); research use only, not for diagnosis")
        made.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Bound before the model is loaded, so that a port that is taken is noticed at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        made = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError) as problem:
        raise LatentcastError(
            f"--host {host} --port {port}: cannot be listened at ({problem}); give another --port"
        ) from None
    return made
