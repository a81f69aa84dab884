"""What a server does under load, and with files that are damaged; prints JSON.

    PYTHONPATH=. python benchmarks/serve.py [MODEL] [--clients N] [--seconds S] [--malformed N]

The server runs in this process, its clients in another. Its recordings per second are divided by
those of the bare forward of the same network over full batches, measured in this process before
and after. Then changed files are sent (``dev.fuzz.mutations``), and their statuses counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from dev.fuzz.ecg_files import write_dicom, write_edf, write_scp
from dev.fuzz.mutations import BYTES, TEXT
from dev.fuzz.xml_files import write_muse
from latentcast.serving.limits import Limits
from latentcast.serving.model import Served
from latentcast.serving.server import server
from latentcast.signals.synthetic import synthetic_recording

Request = tuple[str, bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="latentcast/conv-ecg-tiny")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--kind", choices=("npy", "dicom", "json"), default="npy")
    arguments = parser.parse_args()
    samples = uploads()
    busy = [os.getloadavg()[0]]
    made = server(arguments.model, limits=Limits())
    served = Served(arguments.model)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()
        port = listening.getsockname()[1]
        bare = [forward(served)]
        began = time.process_time()
        load = apart(loaded, port, samples[arguments.kind], arguments.clients, arguments.seconds)
        spent = (time.process_time() - began) / load["requests"]
        bare.append(forward(served))
        busy.append(os.getloadavg()[0])
        malformed = apart(damaged, port, list(samples.values()), arguments.malformed)
        made.should_exit = True
        thread.join()
    rate = statistics.fmean(speed for speed, _ in bare)
    print(json.dumps({
        "benchmark": "serve", **vars(arguments), "torch_threads": torch.get_num_threads(),
        "load_before_and_after": busy,
        "bare_recordings_per_second": [speed for speed, _ in bare], **load,
        "share_of_bare": load["recordings_per_second"] / rate,
        "bare_cpu_ms": 1e3 * statistics.fmean(cpu for _, cpu in bare), "served_cpu_ms": 1e3 * spent,
        "malformed_statuses": malformed,
    }, indent=1))  # fmt: skip


def uploads() -> dict[str, Request]:
    """A path and a body for each kind."""
    recording = synthetic_recording(70, 100, 10)
    np.save(array := BytesIO(), recording.signal[np.newaxis])
    leads = ",".join(recording.leads)
    signal = {"signal": recording.signal.tolist(), "leads": recording.leads, "sampling_rate": 100}
    found = {
        "npy": (f"/v1/file?sampling_rate=100&unit=mV&leads={leads}", array.getvalue()),
        "json": ("/v1/signal", json.dumps(signal).encode()),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, write in (("dicom", write_dicom), ("edf", write_edf), ("scp", write_scp),
                            ("muse", write_muse)):  # fmt: skip
            write(file := Path(folder, name), recording)
            found[name] = ("/v1/file", file.read_bytes())
    part = {"valueSampledData": {"origin": {"unit": "uV"}, "period": 10}}
    parts = [part | {"code": {"text": lead}} for lead in recording.leads]
    for component, row in zip(parts, np.rint(recording.signal * 1000).astype(int), strict=True):
        component["valueSampledData"] = {
            **part["valueSampledData"], "data": " ".join(map(str, row)),
        }  # fmt: skip
    observation = {"resourceType": "Observation", "component": parts}
    return found | {"fhir": ("/v1/fhir", json.dumps(observation).encode())}


def forward(served: Served, batch: int = 64, seconds: float = 3.0) -> tuple[float, float]:
    """Recordings per second of the network alone, and its CPU seconds for each.

    The second one does not depend on what else the machine does."""
    shape = (batch, served.input.length, len(served.input.leads))
    windows = np.random.default_rng(0).integers(-800, 800, shape).astype(np.int16)
    served.run(windows, served.outputs)
    started, began, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < started + seconds:
        served.run(windows, served.outputs)
        done += batch
    return done / (time.perf_counter() - started), (time.process_time() - began) / done


def apart(function: Any, *arguments: Any) -> Any:
    """The result of a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply_async(function, (os.getpid(), *arguments))
        return result.get()


def loaded(owner: int, port: int, request: Request, clients: int, seconds: float) -> dict[str, Any]:
    """Clients that ask again as soon as they have an answer; the first fifth warms up."""
    laps: list[tuple[float, float, int]] = []
    memory: list[int] = []

    async def client(until: float) -> None:
        link = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < until:
            status = await ask(*link, *request)
            laps.append((started, time.perf_counter(), status))
        link[1].close()

    async def watch(until: float) -> None:
        while time.perf_counter() < until:
            pages = Path(f"/proc/{owner}/statm").read_text().split()[1]
            memory.append(int(pages) * os.sysconf("SC_PAGE_SIZE") // 2**20)
            await asyncio.sleep(0.5)

    async def all_of_them() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(watch(until), *(client(until) for _ in range(clients)))

    asyncio.run(all_of_them())
    begin = min(start for start, _, _ in laps) + seconds / 5
    end = max(start for start, _, _ in laps)
    measured = [stop - start for start, stop, _ in laps if begin <= stop <= end]
    tail = statistics.quantiles(measured, n=100)
    settled = memory[len(memory) // 5 :]
    return {
        "requests": len(laps), "statuses": dict(Counter(status for _, _, status in laps)),
        "recordings_per_second": len(measured) / (end - begin),
        "p50_seconds": tail[49], "p99_seconds": tail[98],
        "resident_mebibytes": {"after_a_fifth": settled[0], "end": settled[-1],
                               "highest": max(settled)},
    }  # fmt: skip


def damaged(owner: int, port: int, samples: list[Request], count: int) -> dict[int, int]:
    """The statuses of changed uploads, eight at a time."""
    statuses: Counter[int] = Counter()
    random = Random(0)

    async def client(number: int) -> None:
        for _ in range(number):
            path, body = random.choice(samples)
            change = random.choice(BYTES + TEXT * (not path.startswith("/v1/file")))
            for _ in range(random.choice((1, 1, 3))):
                body = change(random, body) if body else b"x"
            link = await asyncio.open_connection("127.0.0.1", port)
            try:
                statuses[await ask(*link, path, body)] += 1
            except (OSError, EOFError):  # of which IncompleteReadError is one
                statuses[0] += 1
            link[1].close()

    async def all_of_them() -> None:
        await asyncio.gather(*(client(len(range(n, count, 8))) for n in range(8)))

    asyncio.run(all_of_them())
    return dict(statuses)


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: bytes
) -> int:
    name = "X-File-Name: x.npy\r\n" if "leads" in path else ""
    writer.write(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{name}Content-Length: {len(body)}\r\n\r\n"
        .encode() + body
    )  # fmt: skip
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


if __name__ == "__main__":
    main()
