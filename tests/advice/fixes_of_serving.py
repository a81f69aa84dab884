"""What errors of the server and of the page of one ECG say to type."""

from __future__ import annotations

import socket
from contextlib import closing
from io import BytesIO
from typing import Any

import numpy as np
from starlette.responses import Response
from terminal import Terminal, fixes

from latentcast.artifacts.recordings import ArrayAxes
from latentcast.errors import LatentcastError
from latentcast.serving.access import TOKEN, allowed, check_access
from latentcast.serving.fhir import recording_of
from latentcast.serving.guard import Guard
from latentcast.serving.metrics import Metrics
from latentcast.serving.model import Served
from latentcast.serving.server import _listening, serve
from latentcast.serving.uploads import Refused, Uploads
from latentcast.signals.recording import Recording


@fixes("report/view.py", "{}: was trained on images")
@fixes("report/view.py", "{}: lasts")
def _(t: Terminal) -> None:
    table, page = t.new("ecg.csv"), t.new("page.html")
    seconds = 70 if "lasts" in t.messages[0].text else 10
    values = np.random.default_rng(0).normal(0, 0.3, (100 * seconds, 12))
    leads = "I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6"
    np.savetxt(table, values, "%.4f", ",", header=leads, comments="")
    view = f"view {table} --sampling-rate 100 --unit mV --out {page} --model "
    model = t.at.run if seconds == 70 else t.at.image_run
    verb = t.refused(view + str(model)).typed(r"\(latentcast (\w+)\)")
    if verb == "models":
        t.works(view + t.works("models").split()[0])
    else:
        t.works(f"{verb} {model} {table} --sampling-rate 100 --unit mV --out {t.new('e.csv')}")


@fixes("serving/access.py", "--host {}: others")
def _(t: Terminal) -> None:
    error = t.refused(lambda: check_access("0.0.0.0", None))
    assert error.typed(r"environment variable (\w+)") == TOKEN
    t.works(lambda: check_access("0.0.0.0", "x" * int(error.typed(r"at least (\d+)"))))
    t.works(lambda: check_access("127.0.0.1", None))


@fixes("serving/guard.py", "Host: is not this machine")
def _(t: Terminal) -> None:
    token = "x" * 16
    assert not allowed(None, "", "example.org") and allowed(None, "", "localhost:8000")
    guard = Guard(Response(), None, Metrics(lambda: 0, lambda: 0), {"/"})
    assert t.holding(bytes(guard._refusal().body).decode()).typed("start the server with (--token)")
    t.works(lambda: check_access("0.0.0.0", token))
    assert allowed(token, f"Bearer {token}", "example.org")


@fixes("serving/server.py", "--host {} --port {}")
def _(t: Terminal) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        error = t.refused(lambda: serve(t.at.run, "127.0.0.1", port, say=print))
    assert error.typed("another (--port)")
    t.works(lambda: _listening("127.0.0.1", 0).close())


@fixes("serving/fhir.py", "the origin of its")
def _(t: Terminal) -> None:
    data = {"origin": {"value": 0}, "period": 10, "data": "0 1 2"}
    part = {"code": {"text": "II"}, "valueSampledData": data}
    resource = {"resourceType": "Observation", "component": [part]}
    unit = t.refused(lambda: recording_of(resource)).typed(r"\?unit=(\w+)")
    t.works(lambda: recording_of(resource, unit))


@fixes("serving/uploads.py", "the array: comes without")
def _(t: Terminal) -> None:
    np.save(body := BytesIO(), np.random.default_rng(0).normal(0, 0.3, (3, 5000)))
    uploads = Uploads(Served(t.at.run).input)

    def read(**axes: Any) -> Recording:
        try:
            return uploads.file(body.getvalue(), "x.npy", ArrayAxes(**axes))
        except Refused as error:
            raise LatentcastError(error.reason) from None

    example = t.refused(read).typed(r"\?(\S+)")
    axes = dict(part.split("=") for part in example.split("&"))
    rate, leads = float(axes["sampling_rate"]), axes["leads"].split(",")
    t.works(lambda: read(sampling_rate=rate, leads=leads, unit=axes["unit"]))
    uploads.close()
