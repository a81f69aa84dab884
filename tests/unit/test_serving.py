"""A served model over real HTTP: what it answers, what it refuses, and what stays behind."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ecg_files import write_wfdb
from test_finetune import labelled_store

from latentcast.artifacts.classifier import Classifier
from latentcast.artifacts.encoder import Encoder
from latentcast.data.store import open_store
from latentcast.errors import LatentcastError
from latentcast.serving import uploads
from latentcast.serving.batching import Batcher, Outputs
from latentcast.serving.limits import Limits
from latentcast.serving.model import Served
from latentcast.serving.server import serve, server
from latentcast.signals.synthetic import synthetic_recording
from latentcast.workflows.finetune import finetune
from latentcast.workflows.train import train

for package in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(package)

DICOM = Path(__file__).parents[1] / "data" / "formats" / "guangxi_teaching_sinus_rhythm.dcm"
RECORDING = synthetic_recording(60, 100, 6)
SIGNAL: dict[str, Any] = {
    "signal": RECORDING.signal.tolist(), "leads": list(RECORDING.leads), "sampling_rate": 100,
}  # fmt: skip
TOKEN = "0123456789abcdef"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client(NamedTuple):
    port: int
    folder: Path

    def __call__(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None,
        method: str | None = None,
    ) -> Reply:  # fmt: skip
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            link.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            reply = link.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.headers.items()},
                         reply.read())  # fmt: skip
        finally:
            link.close()

    def post(self, path: str, content: Any) -> Reply:
        return self(path, json.dumps(content).encode())


@contextmanager
def serving(run: Path, **how: Any) -> Iterator[Client]:
    before = set(uploads.IN_MEMORY.glob(f"{uploads._PREFIX}{os.getpid()}-*"))
    made = server(run, **how)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()
        while not made.started:
            time.sleep(0.01)
        (folder,) = set(uploads.IN_MEMORY.glob(f"{uploads._PREFIX}{os.getpid()}-*")) - before
        try:
            yield Client(listening.getsockname()[1], folder)
        finally:
            made.should_exit = True
            thread.join()
    assert not folder.exists()


@pytest.fixture(scope="module")
def tuned(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A fine-tuned run, and its store."""
    folder = tmp_path_factory.mktemp("serving")
    store = labelled_store(folder / "store").path
    finetune(small_run, store, folder / "run", "labels", epochs=1, batch_size=8, quiet=True)
    return folder / "run", store


@pytest.fixture(scope="module")
def client(tuned: tuple[Path, Path]) -> Iterator[Client]:
    run, store = tuned
    with serving(run, index=store, limits=Limits(most_bytes=2**20, seconds=300.0)) as client:
        yield client


def wfdb_zip(folder: Path) -> bytes:
    write_wfdb(folder, RECORDING, "r1")
    with zipfile.ZipFile(body := BytesIO(), "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"inside/{file.name}")
    return body.getvalue()


def observation(unit: dict[str, str], **data: Any) -> dict[str, Any]:
    """Of RECORDING in whole microvolts, the leads by their MDC codes."""
    codes = dict(
        zip(RECORDING.leads, (257, 258, 317, 318, 319, 320, *range(259, 265)), strict=True)
    )
    counts = np.rint(RECORDING.signal * 1000).astype(int)
    return {
        "resourceType": "Observation", "id": "ecg-1", "subject": {"reference": "Patient/7"},
        "component": [
            {"code": {"coding": [{"code": str(131072 + codes[lead])}]},
             "valueSampledData": {"origin": {"value": 0, **unit}, "period": 10, "factor": 1.0,
                                  "dimensions": 1, "data": " ".join(map(str, row)), **data}}
            for lead, row in zip(RECORDING.leads, counts, strict=True)
        ],
    }  # fmt: skip


def test_a_file_is_answered_with_what_the_library_computes_of_it(
    client: Client, tuned: tuple[Path, Path]
) -> None:
    pytest.importorskip("pydicom")
    reply = client("/v1/file", DICOM.read_bytes(), {"X-File-Name": "a%20b.dcm"})
    answer = reply.json
    classifier = Classifier.from_pretrained(tuned[0])
    predicted = classifier.predict(DICOM, resample=True)
    vector = classifier.encoder.embed(DICOM, resample=True)[0]
    assert reply.status == 200 and answer["id"] == "a b"
    assert np.array_equal(np.float32(answer["embedding"]["vector"]), vector)
    labels = answer["prediction"]["labels"]
    assert [label["name"] for label in labels] == list(predicted.names)
    assert np.allclose([label["value"] for label in labels], predicted.values[0], atol=1e-6)
    assert np.allclose([label["spread"] for label in labels], predicted.spread[0], atol=1e-6)
    assert [label["threshold"] for label in labels] == list(classifier.choice.thresholds)
    assert "resampled from 500 to 100 Hz" in answer["remarks"]
    assert "Not for diagnosis" in answer["notice"]


def test_numbers_fhir_and_a_zipped_record_are_the_recording_that_they_hold(
    client: Client, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    encoder = Encoder.from_pretrained(tuned[0])
    vector = encoder.embed(RECORDING)[0]
    gap = [[None if n == 3 else value for n, value in enumerate(row)] for row in SIGNAL["signal"]]
    numbers, with_gap = (client.post("/v1/signal", SIGNAL | s).json for s in ({}, {"signal": gap}))
    assert np.array_equal(np.float32(numbers["embedding"]["vector"]), vector)
    assert numbers["recording"]["valid"] > with_gap["recording"]["valid"]
    zipped = client("/v1/file", wfdb_zip(tmp_path)).json["embedding"]["vector"]
    assert np.allclose(zipped, vector, atol=1e-2)
    for unit, path in (({"unit": "uV"}, "/v1/fhir"), ({}, "/v1/fhir?unit=uV")):
        reply = client.post(path, observation(unit))
        found = reply.json
        assert reply.headers["content-type"] == "application/fhir+json"
        assert found["meta"]["security"][0]["code"] == "AIAST" and found["status"] == "preliminary"
        assert found["derivedFrom"] == [{"reference": "Observation/ecg-1"}]
        assert found["subject"] == {"reference": "Patient/7"}
        *labels, sampled = found["component"]
        assert [label["code"]["text"] for label in labels] == ["AF", "SR"]
        data = sampled["valueSampledData"]["data"].split()
        assert np.allclose(np.float32(data), vector, atol=1e-2)


def test_the_nearest_recording_of_the_index_is_the_recording_itself(
    client: Client, tuned: tuple[Path, Path], tmp_path: Path
) -> None:
    width = Encoder.from_pretrained(tuned[0]).network.width
    recording = open_store(tuned[1])[7]
    body = {"signal": recording.signal.tolist(), "leads": list(recording.leads),
            "sampling_rate": recording.sampling_rate}  # fmt: skip
    near = client.post("/v1/signal?neighbours=3", body).json["neighbours"]
    assert near[0]["id"] == recording.record_id and near[0]["cosine"] == pytest.approx(1)
    assert [n["cosine"] for n in near] == sorted((n["cosine"] for n in near), reverse=True)
    np.savez(tmp_path / "other.npz", ids=["a"], vectors=np.ones((1, width + 1)))
    with pytest.raises(LatentcastError, match="embed the recordings with this model"):
        Served(tuned[0]).search(tmp_path / "other.npz")


def changed(**keys: Any) -> bytes:
    return json.dumps(SIGNAL | keys).encode()


REFUSED: dict[str, tuple[str, bytes, dict[str, str], int, str]] = {
    "nothing": ("/v1/file", b"", {}, 400, "is empty"),
    "no ECG": ("/v1/file", b"hello", {"X-File-Name": "x.txt"}, 422, "x.txt: is of no format"),
    "half a file": ("/v1/file", DICOM.read_bytes()[:9000], {}, 422, "upload: "),
    "a zip of nothing": ("/v1/file", b"PK\x03\x04" + bytes(30), {}, 422, "damaged zip"),
    "too many leads": ("/v1/signal", changed(leads=["I"]), {}, 422, "needs 3 axes"),
    "an array alone": ("/v1/file?unit=mV", b"x", {"X-File-Name": "x.npy"}, 422,
                       "without its sampling_rate, leads; add"),
    "half an array": ("/v1/file?unit=mV&leads=I&sampling_rate=9", b"\x93NUMPY\1\0",
                      {"X-File-Name": "x.npy"}, 422, "x.npy: "),
    "no lead": ("/v1/signal", changed(leads=["Q"] * 12), {}, 422, "no known lead"),
    "text for numbers": ("/v1/signal", changed(signal=[["a"]]), {}, 422, "signal.0.0"),
    "unequal leads": ("/v1/signal", changed(signal=[[1.0], []]), {}, 422, "different lengths"),
    "no rate": ("/v1/signal", changed(sampling_rate=0), {}, 422, "no sampling rate"),
    "an unknown key": ("/v1/signal", changed(rate=5), {}, 422, "rate: Extra"),
    "brackets without end": ("/v1/signal", b"[" * 99_999, {}, 422, "body"),
    "a flat line": ("/v1/signal", changed(signal=[[0.0] * 600] * 12), {}, 422, "no lead is valid"),
    "brackets in FHIR": ("/v1/fhir", b'{"a":' * 99_999, {}, 422, "nested"),
    "another resource": ("/v1/fhir", b'{"resourceType": "Patient"}', {}, 422, "Observation"),
    "no unit": ("/v1/fhir", json.dumps(observation({})).encode(), {}, 422, "no unit"),
    "no numbers": ("/v1/fhir", json.dumps(observation({"unit": "uV"}, data="nan 1_0")).encode(), {},
                   422, "no list of numbers"),
    "no time": ("/v1/fhir", json.dumps(observation({"unit": "uV"}, period=-1)).encode(), {},
                422, "period"),
    "too large": ("/v1/file", bytes(2**20 + 1), {}, 413, "more than 1,048,576 bytes"),
    "compressed": ("/v1/file", b"x", {"Content-Encoding": "gzip"}, 415, "content-encoding"),
    "an unknown option": ("/v1/file?fs=500", b"x", {}, 422, "fs: Extra"),
    "an impossible option": ("/v1/file?rename=II", b"x", {}, 422, "NAME=LEAD"),
    "an unknown path": ("/v1/files", b"x", {}, 404, "Not Found"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_reason(client: Client, name: str) -> None:
    path, body, headers, status, reason = REFUSED[name]
    reply = client(path, body, headers)
    assert reply.status == status and list(reply.json) == ["error"]
    assert reason in reply.json["error"] and str(client.folder) not in reply.json["error"]


def test_several_recordings_in_one_upload_are_refused(client: Client) -> None:
    np.save(body := BytesIO(), np.stack([RECORDING.signal] * 2))
    axes = f"sampling_rate=100&unit=mV&leads={','.join(RECORDING.leads)}"
    reply = client(f"/v1/file?{axes}", body.getvalue(), {"X-File-Name": "x.npy"})
    assert reply.status == 422 and "several recordings" in reply.json["error"]


def test_a_body_without_length_ends_at_the_limit(client: Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield bytes(2**16)

    link = http.client.HTTPConnection("127.0.0.1", client.port, timeout=300)
    try:
        link.request("POST", "/v1/file", endless(), encode_chunked=True,
                     headers={"Transfer-Encoding": "chunked"})  # fmt: skip
    except OSError:
        pass  # it was cut off while it still sent
    else:
        pytest.fail("all was taken")
    finally:
        link.close()
    assert client("/health").status == 200


def test_nothing_of_an_upload_stays(client: Client) -> None:
    client("/v1/file", DICOM.read_bytes())
    client("/v1/file", b"hello")
    assert client.folder.parent == uploads.IN_MEMORY and list(client.folder.iterdir()) == []
    assert client.folder.stat().st_mode & 0o077 == 0


def test_uploads_of_a_killed_server_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IN_MEMORY", tmp_path)
    for owner in ("999999999", str(1), "x"):  # nobody, somebody, no number
        (tmp_path / f"{uploads._PREFIX}{owner}-a").mkdir()
    uploads._remove_left()
    assert sorted(f.name[17:] for f in tmp_path.iterdir()) == ["1-a", "x-a"]


def test_without_a_token_others_cannot_ask(small_run: Path, client: Client) -> None:
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(LatentcastError, match="LATENTCAST_TOKEN"):
            server(small_run, host)
    assert client("/v1/model", headers={"Host": "example.org:80"}).status == 401
    assert client("/v1/model", headers={"Host": "localhost"}).status == 200
    with serving(small_run, token=TOKEN) as guarded:
        for header, status in ((None, 401), ("Bearer 0", 401), (f"Bearer {TOKEN}", 200)):
            headers = {} if header is None else {"Authorization": header}
            assert guarded("/v1/model", headers=headers).status == status
            assert guarded("/metrics", headers=headers).status == status
        assert guarded("/").status == guarded("/health").status == 200


def test_the_page_runs_its_own_script_and_loads_nothing(client: Client) -> None:
    reply = client("/")
    text = reply.body.decode()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in reply.headers["content-security-policy"]
    assert not re.search(r"https?://|src=", text) and "Research use only" in text
    pytest.importorskip("matplotlib")
    answer = client.post("/v1/signal?picture=true&embedding=false", SIGNAL).json
    assert answer["picture"].startswith("<svg") and answer["embedding"] is None


def test_metrics_and_the_description_name_what_happened(client: Client) -> None:
    client("/v1/file", b"hello")
    text = client("/metrics").body.decode()
    assert re.search(r'latentcast_requests_total\{path="/v1/file",status="422"\} \d', text)
    assert "latentcast_batch_windows_bucket" in text
    paths = client("/openapi.json").json["paths"]
    assert {"/v1/file", "/v1/signal", "/v1/fhir", "/v1/model", "/health"} <= set(paths)
    assert paths["/v1/signal"]["post"]["requestBody"]["content"]["application/json"]["schema"]


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A network that begins when it is let go."""
    go, run = threading.Event(), Served.run

    def wait(self: Served, windows: Any, outputs: Any) -> Outputs:
        if hasattr(self, "features"):  # not while it is loaded
            assert go.wait(30)
        return run(self, windows, outputs)

    monkeypatch.setattr(Served, "run", wait)
    yield go
    go.set()


def test_a_full_queue_sends_others_away_and_a_late_answer_is_given_up(
    small_run: Path, stuck: threading.Event
) -> None:
    with serving(small_run, limits=Limits(queue=2, seconds=3.0)) as client:
        replies: list[Reply] = []
        threads = [
            threading.Thread(target=lambda: replies.append(client.post("/v1/signal", SIGNAL)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(reply.status for reply in replies) == [429, 503, 503]
        assert all("retry-after" in reply.headers for reply in replies)
        stuck.set()
        assert client.post("/v1/signal", SIGNAL).status == 200


def test_a_slow_body_and_a_client_that_leaves_hold_nobody(
    small_run: Path, stuck: threading.Event
) -> None:
    body = json.dumps(SIGNAL).encode()
    head = f"POST /v1/signal HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    with ExitStack() as stack:
        client = stack.enter_context(serving(small_run, limits=Limits(queue=2, seconds=2.0)))

        def link() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", client.port)))

        slow = [link() for _ in range(5)]
        for one in slow:
            one.sendall(head.encode() + body[:100])
        for _ in range(4):  # more than the queue has places
            leaving = link()
            leaving.sendall(head.encode() + body)
            time.sleep(0.1)
            leaving.close()
        time.sleep(0.3)
        stuck.set()
        assert client.post("/v1/signal", SIGNAL).status == 200
        for one in slow:
            assert one.recv(100).startswith(b"HTTP/1.1 408")


def test_the_port_in_use_and_other_models_are_refused_before_anything_listens(
    small_run: Path, digits_store: Path, tmp_path: Path
) -> None:
    keys = ("train.steps=1", "optimizer.warmup_steps=0", "train.batch_size=4")
    train("ijepa-image-digits", digits_store, images := tmp_path / "run", set=keys, quiet=True)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(LatentcastError, match="give another --port"),
    ):
        serve(small_run, "127.0.0.1", taken.getsockname()[1], say=print)
    with pytest.raises(LatentcastError, match="trained on images"):
        Served(images)


def windows(count: int, samples: int = 4, value: int = 0) -> np.ndarray:
    return np.full((count, samples, 1), value, np.int16)


def batcher(most: int) -> tuple[Batcher, list[int], threading.Event]:
    """One whose network doubles and runs on a first window; the sizes of its batches; and what lets
    the first one go."""
    sizes, began, go = list[int](), threading.Event(), threading.Event()

    def run(samples: np.ndarray, outputs: tuple[str, ...]) -> Outputs:
        began.set()
        go.wait(60)
        sizes.append(len(samples))
        if (samples == 99).any():
            raise LatentcastError("x: broken")
        return (samples[:, 0, 0] * 2,)

    made = Batcher(run, most, 0.0)
    made.submit(windows(1), ())
    assert began.wait(60)
    return made, sizes, go


def test_what_waits_shares_a_batch_by_length_and_a_long_recording_holds_nobody() -> None:
    made, sizes, go = batcher(most=4)
    long = made.submit(
        np.arange(10, dtype=np.int16).reshape(10, 1, 1) * np.ones((1, 4, 1), np.int16), ()
    )
    others = [made.submit(windows(1, value=n), ()) for n in range(2)]
    longer = made.submit(windows(1, samples=8), ())
    order: list[str] = []
    long.add_done_callback(lambda _: order.append("long"))
    others[1].add_done_callback(lambda _: order.append("short"))
    go.set()
    assert long.result(60)[0].tolist() == [2 * n for n in range(10)]
    assert [future.result(60)[0].tolist() for future in others] == [[0], [2]]
    assert longer.result(60)[0].tolist() == [0] and order == ["short", "long"]
    made.close()
    assert sum(sizes) == 14 and max(sizes) == 4


def test_an_error_and_a_cancelled_job_are_their_own_matter() -> None:
    made, sizes, go = batcher(most=1)
    cancelled, bad, good = (made.submit(windows(3, value=v), ()) for v in (1, 99, 2))
    assert cancelled.cancel()
    go.set()
    with pytest.raises(LatentcastError, match="broken"):
        bad.result(60)
    assert good.result(60)[0].tolist() == [4, 4, 4] and made.alive
    made.close()
    assert len(sizes) == 5  # 1, and one of the bad, and three; of the cancelled none
