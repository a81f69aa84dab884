"""Who may ask: anybody on this machine; from elsewhere, whoever has the token."""

from __future__ import annotations

import hmac
import ipaddress

from latentcast.errors import LatentcastError

TOKEN = "LATENTCAST_TOKEN"
"""The environment variable of the token."""
SHORTEST = 16
"""Characters of a token."""
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether an address to listen at is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_access(host: str, token: str | None) -> None:
    """Before anything listens.

    Raises:
        LatentcastError: others could reach it without a token, or the token is short or cannot be
            sent.
    """
    if token is None and not is_loopback(host):
        raise LatentcastError(
            f"--host {host}: others can reach it, and there is no token; set the environment "
            f"variable {TOKEN} (or --token) to at least {SHORTEST} characters, or leave out --host"
        )
    if token is not None and (len(token) < SHORTEST or not token.isascii() or " " in token):
        raise LatentcastError(
            f"the token: has {len(token)} characters; choose at least {SHORTEST} of ASCII without "
            "spaces, such as of: openssl rand -hex 16"
        )


def allowed(token: str | None, authorization: str, host: str) -> bool:
    """Whether a request may be answered.

    Without a token it must name this machine as its host: a page of somebody else that a browser
    shows could otherwise read answers under a name of its own (DNS rebinding).

    Args:
        token: of the server.
        authorization: header of the request, ``Bearer TOKEN``.
        host: header of the request.
    """
    if token is None:
        return host.rpartition(":")[0 if ":" in host.rpartition("]")[2] else 2] in _LOCAL
    return hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode())
