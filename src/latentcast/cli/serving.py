"""Verbs of a trained model at work: view, serve."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def view(
    file: Positional[Path],
    *,
    model: Path,
    out: Path | None = None,
    device: str = "auto",
    sampling_rate: float | None = None,
    unit: str | None = None,
    rename: str | None = None,
    missing_leads: Literal["refuse", "mean"] = "refuse",
) -> None:
    """Write one ECG and what a model makes of it as a page: research use, not diagnosis.

    Of a fine-tuned run its probabilities, of a pretraining run the error of each patch. The file is
    brought to the rate of the model.

    Args:
        file: of one ECG, in any format that is read.
        model: run, exported file or folder, or a model that ships.
        out: page to write; by default FILE.html in the current folder.
        device: such as cuda:1 or cpu; auto is the GPU when there is one.
        sampling_rate: of files that have none (tables of leads), Hz.
        unit: of such files: V, mV, uV or nV.
        rename: leads by what the file calls them, as ECG1=II,ECG2=V1.
        missing_leads: with "mean", leads that are missing are read at their mean of the training
            data.
    """
    from latentcast.artifacts.recordings import ArrayAxes
    from latentcast.files import apart
    from latentcast.report.view import write_view
    from latentcast.signals.leads import name_pairs
    from latentcast.terminal import Terminal

    out = out or Path(f"{file.stem}.html")
    apart(out, file=file, model=model)
    axes = ArrayAxes(sampling_rate, None, unit, rename=name_pairs(rename))
    write_view(file, model, out, axes, missing_leads, device)
    Terminal().print(str(out), soft_wrap=True)


def serve(
    model: Positional[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    index: Path | None = None,
    device: str = "auto",
    layer: str | None = None,
    pooling: str = "mean",
    max_megabytes: float = 16.0,
    max_seconds: float = 30.0,
    queue: int = 256,
    batch_size: int = 64,
) -> None:
    """Answer HTTP requests: ECG files or signals in, embeddings, predictions, neighbours out.

    A page at / takes files from a browser; /openapi.json describes the rest. Nothing that is sent
    is written to a disk or to a log.

    Args:
        model: run, exported file or folder, or a model that ships; of a fine-tuned run the
            predictions too.
        host: address to listen at; one that others reach needs a token.
        port: to listen at; 0 takes a free one.
        token: that requests must have, as Authorization: Bearer TOKEN; the environment variable
            LATENTCAST_TOKEN keeps it out of the list of processes.
        index: store, or table of embeddings, in which the nearest recordings are found.
        device: such as cuda:1 or cpu; auto is the GPU when there is one.
        layer: that embeddings are read from; by default the encoder's own.
        pooling: of the tokens: mean, std, max, mean+std, mean+std+max or last.
        max_megabytes: of the body of a request.
        max_seconds: from the first byte of a request to its answer.
        queue: requests that are read or wait; others are answered with 429.
        batch_size: windows the network reads at a time.
    """
    from latentcast.serving.limits import Limits
    from latentcast.serving.server import serve as run_server
    from latentcast.terminal import Terminal

    limits = Limits.of(max_megabytes, max_seconds, queue, batch_size)
    run_server(
        model, host, port, token=token, index=index, device=device, layer=layer, pooling=pooling,
        limits=limits, say=lambda line: Terminal().print(line, soft_wrap=True),
    )  # fmt: skip
