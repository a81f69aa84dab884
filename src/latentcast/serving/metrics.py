"""Counters for Prometheus: what is asked, how long it takes, what waits."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Of one server.

    Args:
        waiting: windows that wait for the network.
        active: requests that have been received and not been answered.
    """

    def __init__(self, waiting: Callable[[], int], active: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "latentcast_requests", "Answers by path and status.", ("path", "status"),
            registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "latentcast_request_seconds", "From the first byte of a request to its answer.",
            ("path",), registry=registry, buckets=_SECONDS,
        )  # fmt: skip
        self._batches = Histogram(
            "latentcast_batch_windows", "Windows in a batch of the network.", registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )  # fmt: skip
        self._network = Counter(
            "latentcast_network_seconds", "Seconds that the network has run.", registry=registry
        )
        for name, about, read in (
            ("waiting_windows", "Windows that wait for the network.", waiting),
            ("active_requests", "Requests received and not answered.", active),
        ):
            gauge = Gauge(f"latentcast_{name}", about, registry=registry)
            gauge.set_function(read)

    def batch(self, windows: int, seconds: float) -> None:
        """One run of the network."""
        self._batches.observe(windows)
        self._network.inc(seconds)

    def request(self, path: str, status: int, seconds: float) -> None:
        """One answer."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self._registry)
