"""Calls on the machines of a Ray cluster, as an executor; what they read lies on a shared disk."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentcast.data.manifest import library_version
from latentcast.errors import LatentcastError, missing_extra

_function: tuple[str, Callable[..., Any]] | None = None
"""Of a process of the cluster: the one that it called last, by its name in Ray's object store."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster (Moritz et al. 2018) in the place of processes of this machine.

    Attributes:
        address: ``auto`` for the cluster that this machine is a part of, ``local`` for processes of
            this machine, ``ray://HOST:10001`` or ``HOST:6379``.
        paths: what every machine has to have under the same name.
        gpus: that a call takes.
    """

    address: str
    paths: tuple[Path, ...] = ()
    gpus: int = 0


class RayExecutor(Executor):
    """One call at a time on each processor of a cluster, or on each of its GPUs.

    What is called goes to each machine once, and to each of its processes once, and so may be
    large. A call whose machine is lost is made again on another one.

    Raises:
        LatentcastError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, cluster: Cluster) -> None:
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray", "cluster", "--cluster") from error
        try:
            ray.init(
                cluster.address, log_to_driver=False, configure_logging=False, logging_level="error"
            )
        except (ConnectionError, RuntimeError, ValueError) as problem:
            reason = " ".join(str(problem).split())[:200]
            raise LatentcastError(
                f"--cluster {cluster.address}: does not answer ({reason}); start it (ray "
                "start), or name another one (auto, local, ray://HOST:10001)"
            ) from None
        self._ray = ray
        paths = [str(path.absolute()) for path in cluster.paths]
        self._place = _Place(os.getcwd(), paths, library_version())  # noqa: PTH109
        self._call = ray.remote(_call).options(num_gpus=cluster.gpus, num_cpus=1)
        self._sent: tuple[Callable[..., Any], Any] | None = None
        resource = "GPU" if cluster.gpus else "CPU"
        self.calls = max(1, int(ray.cluster_resources().get(resource, 1)))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._sent is None or self._sent[0] is not fn:
            self._sent = fn, self._ray.put(fn)
        reference = self._sent[1]
        called = self._call.remote([reference], reference.hex(), self._place, args, kwargs)
        result: Future[Any] = Future()
        called.future().add_done_callback(lambda done: self._hand_over(done, result))
        return result

    def _hand_over(self, done: Future[Any], result: Future[Any]) -> None:
        """Errors as the function raised them; a process that died as one of a pool."""
        if not result.set_running_or_notify_cancel():
            return
        error = done.exception()
        if error is None:
            result.set_result(done.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):
            result.set_exception(error.cause or error)
        else:
            result.set_exception(BrokenExecutor(str(error)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ray.shutdown()


@dataclass(frozen=True)
class _Place:
    """What a machine of the cluster has to have in common with this one."""

    folder: str
    paths: list[str]
    version: str

    def check(self) -> None:
        """Raises LatentcastError: it has not."""
        here = socket.gethostname()
        for path in self.paths:
            if not os.path.exists(path):  # noqa: PTH110
                raise LatentcastError(
                    f"{path}: does not exist on {here}; let every machine of the cluster have it "
                    "under that name"
                )
        if (own := library_version()) != self.version:
            raise LatentcastError(
                f"latentcast {own}: is installed on {here}, and {self.version} where the command "
                "was given; install the same one on every machine of the cluster"
            )
        if os.path.isdir(self.folder):  # noqa: PTH112
            os.chdir(self.folder)  # where relative paths begin


def _call(reference: list[Any], name: str, place: _Place, args: Any, kwargs: Any) -> Any:
    """In a process of the cluster. References in a list stay references until they are needed."""
    global _function
    if _function is None or _function[0] != name:
        import ray

        place.check()
        _function = name, ray.get(reference[0])
    return _function[1](*args, **kwargs)
