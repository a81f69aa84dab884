"""The paths of the server, described by ``/openapi.json``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp

from latentcast.artifacts.recordings import ArrayAxes, MissingLeads
from latentcast.errors import LatentcastError, printable
from latentcast.report.templates import render
from latentcast.serving.answers import NOTICE, Answer, ModelFacts, Problem
from latentcast.serving.fhir import MEDIA_TYPE, observation_of
from latentcast.serving.guard import Guard, problem
from latentcast.serving.service import Service, Wishes
from latentcast.serving.uploads import Refused, Signal
from latentcast.signals.leads import name_pairs
from latentcast.signals.recording import Recording


class Options(BaseModel):
    """What every upload takes."""

    model_config = ConfigDict(extra="forbid")

    embedding: Annotated[bool, Field(description="With the vector.")] = True
    neighbours: Annotated[int, Field(ge=1, le=100, description="How many, with an index.")] = 5
    picture: Annotated[bool, Field(description="With the ECG as SVG.")] = False
    missing_leads: Annotated[
        MissingLeads, Field(description="mean: leads that are missing are read at their mean.")
    ] = "refuse"

    @property
    def wishes(self) -> Wishes:
        return Wishes(self.embedding, self.neighbours, self.picture, self.missing_leads)


class FileOptions(Options):
    """And what files do not always name themselves."""

    sampling_rate: Annotated[float | None, Field(description="Hz, of tables and arrays.")] = None
    unit: Annotated[str | None, Field(description="V, mV, uV or nV, likewise.")] = None
    leads: Annotated[str | None, Field(description="Of arrays, comma-separated.")] = None
    layout: Annotated[str, Field(description="Axes of arrays.")] = "records,leads,samples"
    rename: Annotated[str | None, Field(description="Leads, as ECG1=II,ECG2=V1.")] = None

    @property
    def axes(self) -> ArrayAxes:
        """Raises LatentcastError: names that cannot be."""
        leads = self.leads.split(",") if self.leads else None
        renamed = name_pairs(self.rename)
        return ArrayAxes(self.sampling_rate, leads, self.unit, self.layout, renamed)


class ObservationOptions(Options):
    """And what an Observation may lack."""

    unit: Annotated[str | None, Field(description="Of samples whose origin has none.")] = None


SWITCH = 0.0005
"""Seconds after which a thread yields the interpreter. The network needs it between any two
operations, and by Python's 0.005 each of them waits for a reader: half of all recordings a second.
"""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        401: "No token, or another host", 408: "A body that came too slowly",
        413: "Too large", 422: "Cannot be read, with the reason",
        429: "Busy; Retry-After says when to ask again", 503: "Too slow, or being stopped",
    }.items()
}  # fmt: skip


def application(service: Service, token: str | None) -> ASGIApp:
    """All paths, behind a guard that asks for the token and counts answers."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        yield
        sys.setswitchinterval(before)
        service.close()

    # The pages that show an OpenAPI description load scripts from elsewhere: there are none.
    app = FastAPI(
        title="latentcast", version=metadata.version("latentcast"), description=NOTICE,
        docs_url=None, redoc_url=None, lifespan=lifespan, responses=PROBLEMS,
    )  # fmt: skip
    _add_problems(app)
    _add_uploads(app, service)
    page, policy = _page()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server works."""
        if not service.batcher.alive:
            raise Refused(503, "the network: its thread has ended; restart the server")
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/model")
    async def model() -> ModelFacts:
        """What is served."""
        return service.served.facts(service.limits.most_bytes)

    paths = {route.path for route in app.routes if isinstance(route, Route)}
    return Guard(app, token, service.metrics, paths)


def _add_uploads(app: FastAPI, service: Service) -> None:
    async def answered(
        request: Request, read: Callable[[bytes], Recording], options: Options, fhir: bool = False
    ) -> Response:
        answer, recording = await service.answer(request, read, options.wishes)
        if fhir or MEDIA_TYPE in request.headers.get("accept", ""):
            content = json.dumps(observation_of(answer, recording))
            return Response(content, media_type=MEDIA_TYPE)
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.post("/v1/file", response_model=Answer, openapi_extra=_body("application/octet-stream"))
    async def file(request: Request, options: Annotated[FileOptions, Query()]) -> Response:
        """One ECG file of any format that is read, its bytes as the body.

        The header ``X-File-Name`` (percent-encoded) names it in the answer; its suffix tells
        arrays (.npy) from files that are recognised by their content. With ``Accept:
        application/fhir+json`` the answer is an Observation.
        """
        name = re.split(r"[/\\]", unquote(request.headers.get("x-file-name", "")))[-1]
        read = partial(service.uploads.file, name=printable(name), axes=options.axes)
        return await answered(request, read, options)

    @app.post("/v1/signal", response_model=Answer,
              openapi_extra=_body("application/json", Signal.model_json_schema()))  # fmt: skip
    async def signal(request: Request, options: Annotated[Options, Query()]) -> Response:
        """One recording as JSON: ``signal`` (a list for each lead), ``leads``, ``sampling_rate``
        in Hz, ``unit``."""
        return await answered(request, service.uploads.signal, options)

    @app.post("/v1/fhir", openapi_extra=_body(MEDIA_TYPE, {"type": "object"}))
    async def fhir(request: Request, options: Annotated[ObservationOptions, Query()]) -> Response:
        """A FHIR R4 Observation with SampledData, answered by an Observation."""
        read = partial(service.uploads.observation, unit=options.unit)
        return await answered(request, read, options, fhir=True)


def _body(kind: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    schema = schema or {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return problem(error.status, error.reason, error.headers)

    @app.exception_handler(LatentcastError)
    async def ours(request: Request, error: LatentcastError) -> Response:
        return problem(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def options(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return problem(error.status_code, f"{request.url.path}: {error.detail}")


def _page() -> tuple[str, str]:
    """The page, and a policy under which a browser runs its own script alone."""
    text = render("serve.html", notice=NOTICE)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy
