"""As much of the interface of Ray as the library uses, on threads: no test depends on Ray."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

_numbers = count()


class TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class Reference:
    """To an object that was pickled, as those between machines are."""

    def __init__(self, content: Any) -> None:
        self.content = pickle.dumps(content)
        self.name = f"reference-{next(_numbers)}"  # never that of an earlier one

    def hex(self) -> str:
        return self.name


class Task:
    def __init__(self, function: Callable[..., Any], pool: ThreadPoolExecutor) -> None:
        self.function, self.pool = function, pool

    def options(self, **resources: int) -> Task:
        assert resources["num_cpus"] == 1
        return self

    def remote(self, *arguments: Any) -> SimpleNamespace:
        def run() -> Any:
            try:
                return pickle.loads(pickle.dumps(self.function(*arguments)))
            except Exception as error:
                raise TaskError(error) from None

        called: Future[Any] = self.pool.submit(run)
        return SimpleNamespace(future=lambda: called)


@contextmanager
def ray_of_threads() -> Iterator[list[str]]:
    """Two calls at a time at the address ``local``, which is noted; no other one answers."""
    addresses: list[str] = []

    def init(address: str, **_: Any) -> None:
        addresses.append(address)
        if address != "local":
            raise ConnectionError("Could not find any running Ray instance.")

    with ThreadPoolExecutor(2) as pool:
        ray = SimpleNamespace(
            init=init, shutdown=lambda: None, put=Reference,
            get=lambda reference: pickle.loads(reference.content),
            cluster_resources=lambda: {"CPU": 2.0}, remote=lambda function: Task(function, pool),
            exceptions=SimpleNamespace(RayTaskError=TaskError),
        )  # fmt: skip
        with patch.dict("sys.modules", ray=ray):
            yield addresses
