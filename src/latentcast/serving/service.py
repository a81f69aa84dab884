"""From a request to its answer, within limits of size, time and number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from latentcast.artifacts.recordings import MissingLeads
from latentcast.errors import LatentcastError
from latentcast.serving.answers import Answer
from latentcast.serving.batching import Batcher
from latentcast.serving.limits import Limits
from latentcast.serving.metrics import Metrics
from latentcast.serving.model import Prepared, Served
from latentcast.serving.picture import drawn
from latentcast.serving.uploads import Refused, Uploads
from latentcast.signals.recording import Recording

READERS = 2
"""Threads that read uploads: they share one interpreter."""
BUFFERED = 8
"""Times the largest upload that all bodies together may take."""
DROPPED = 4
"""Times the largest upload that is received of one that is refused."""
GONE = 499
"""Status in the metrics of a client that went away; nobody receives it."""


@dataclass(frozen=True)
class Wishes:
    """What a request wants beside the prediction."""

    embedding: bool = True
    neighbours: int = 5
    picture: bool = False
    missing_leads: MissingLeads = "refuse"


class Service:
    """All that the application shares between requests.

    Attributes:
        served: the artifact.
        uploads: reads bodies.
    """

    def __init__(self, served: Served, limits: Limits) -> None:
        self.served, self.limits = served, limits
        self.uploads = Uploads(served.input)
        self.active = self._buffered = 0
        self.metrics = Metrics(lambda: self.batcher.waiting, lambda: self.active)
        self.batcher = Batcher(served.run, limits.batch, limits.delay, self.metrics.batch)
        self._readers = ThreadPoolExecutor(READERS, "latentcast-reader")

    def close(self) -> None:
        """End the threads and remove the folder of uploads."""
        self.batcher.close()
        self._readers.shutdown(cancel_futures=True)
        self.uploads.close()

    async def answer(
        self, request: Request, read: Callable[[bytes], Recording], wishes: Wishes
    ) -> tuple[Answer, Recording]:
        """Read the body, read the recording in it, wait for the network.

        Raises:
            Refused: with a status of 4xx, or 503 where the server is too slow.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.seconds
        body = await self._body(request, until)
        try:
            return await self._answer(request, body, read, wishes, until)
        finally:
            self._buffered -= len(body)

    async def _answer(
        self,
        request: Request,
        body: bytes,
        read: Callable[[bytes], Recording],
        wishes: Wishes,
        until: float,
    ) -> tuple[Answer, Recording]:
        loop = asyncio.get_running_loop()
        if self.active >= self.limits.queue:
            raise _busy()
        self.active += 1
        work = asyncio.ensure_future(self._work(body, read, wishes))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait(
                (work, gone), timeout=max(until - loop.time(), 0.0),
                return_when=asyncio.FIRST_COMPLETED,
            )  # fmt: skip
            if work.done():
                return work.result()
            if gone.done():
                raise Refused(GONE, "the client: went away")
            raise Refused(
                503, f"the server: gave no answer in {self.limits.seconds:g} s; ask again",
                {"Retry-After": "5"},
            )  # fmt: skip
        finally:
            self.active -= 1
            work.cancel()
            gone.cancel()

    async def _body(self, request: Request, until: float) -> bytes:
        """All of it. What is refused is received and dropped first, up to some size: a client that
        still sends would not see why."""
        most, reason = self.limits.most_bytes, None
        if request.headers.get("content-encoding", "identity") != "identity":
            reason = Refused(415, "content-encoding: is not read; send the file as it is")
        pieces, size, kept = list[bytes](), 0, 0
        try:
            async with asyncio.timeout_at(until):
                async for piece in request.stream():
                    size += len(piece)
                    if size > most and (reason is None or size > DROPPED * most):
                        close = {"Connection": "close"} if size > DROPPED * most else {}
                        text = f"the body: has more than {most:,} bytes; send one recording"
                        reason = Refused(413, text, close)
                        if close:
                            raise reason
                    elif reason is None and self._buffered + len(piece) > BUFFERED * most:
                        reason = _busy()
                    if reason is None:
                        pieces.append(piece)
                        kept += len(piece)
                        self._buffered += len(piece)
                    else:
                        pieces.clear()
        except TimeoutError:
            text = f"the body: was not complete in {self.limits.seconds:g} s"
            raise Refused(408, text, {"Connection": "close"}) from None
        except ClientDisconnect:
            raise Refused(GONE, "the client: went away") from None
        finally:
            self._buffered -= kept
        if reason is not None:
            raise reason
        self._buffered += kept  # until it is answered
        return b"".join(pieces)

    async def _work(
        self, body: bytes, read: Callable[[bytes], Recording], wishes: Wishes
    ) -> tuple[Answer, Recording]:
        loop, served = asyncio.get_running_loop(), self.served

        def prepare() -> Prepared:
            return served.prepared(read(body), wishes.missing_leads)

        try:
            prepared = await loop.run_in_executor(self._readers, prepare)
            future = self.batcher.submit(prepared.windows, served.outputs)
            outputs = await asyncio.wrap_future(future)
            answer = served.answer(prepared, outputs, wishes.neighbours)
        except LatentcastError as error:
            raise Refused(422, str(error)) from None
        if wishes.picture:
            try:
                picture = await loop.run_in_executor(self._readers, drawn, prepared.recording)
                answer.picture = picture
            except LatentcastError as error:
                answer.remarks.append(f"without a picture: {error}")
        if not wishes.embedding:
            answer.embedding = None
        return answer, prepared.recording


def _busy() -> Refused:
    return Refused(429, "the server: is busy; ask again", {"Retry-After": "1"})


async def _gone(request: Request) -> None:
    """Ends when the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
