"""The bytes of converted records in memory that processes share: a pipe copies them five times."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latentcast.data.convert import Converted, Converter, Rejected
from latentcast.source import RecordRef

ROOM = 2**22
"""Bytes of one batch, of which only those are memory that were written; what is beyond them comes
through the pipe."""
Batch = tuple[int, Sequence[RecordRef]]
"""Its number, and its records."""
Results = tuple[int, list[Converted | Rejected], list[int]]
"""The number of a batch, and of each of its records how many bytes lie in its room."""


@dataclass(frozen=True)
class SharedPayloads:
    """A converter for processes that are forked from this one.

    Args:
        converter: of the records.
        memory: of as many rooms as there are batches under way.
    """

    converter: Converter
    memory: mmap.mmap

    @classmethod
    def of(cls, converter: Converter, under_way: int) -> SharedPayloads:
        return cls(converter, mmap.mmap(-1, under_way * ROOM))

    def __call__(self, batches: Sequence[Batch]) -> list[Results]:
        """In one of the processes."""
        return [(number, *self._put(self._start(number), refs)) for number, refs in batches]

    def _put(
        self, start: int, refs: Sequence[RecordRef]
    ) -> tuple[list[Converted | Rejected], list[int]]:
        results, sizes, end = self.converter(refs), list[int](), start + ROOM
        for place, result in enumerate(results):
            data = result.payload.data if isinstance(result, Converted) else b""
            size = len(data) if isinstance(data, bytes) and len(data) <= end - start else 0
            if isinstance(result, Converted) and isinstance(data, bytes) and size:
                self.memory[start : start + size] = data
                results[place] = result._replace(payload=result.payload._replace(data=b""))
            sizes.append(size)
            start += size
        return results, sizes

    def received(self, found: Results) -> Iterator[Converted | Rejected]:
        """In this process; a record's bytes last until the next batch is asked for."""
        number, results, sizes = found
        start, view = self._start(number), memoryview(self.memory)
        for result, size in zip(results, sizes, strict=True):
            if isinstance(result, Converted) and size:
                data = view[start : start + size]
                result = result._replace(payload=result.payload._replace(data=data))
            start += size
            yield result

    def _start(self, number: int) -> int:
        return number * ROOM % len(self.memory)
