"""A run as a folder to pass on: its weights, its configuration, and a card with its audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from latentcast.artifacts.card import CARD, NOTHING, Facts, write_card
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import export
from latentcast.artifacts.public import is_public, read_public
from latentcast.artifacts.summary import summary
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.errors import LatentcastError
from latentcast.files import apart, write_text
from latentcast.places import refuse_other_than_run
from latentcast.pretrained.models import WEIGHTS, at_step, located, ships
from latentcast.report.card import facts_of_run
from latentcast.runs.folder import run_of
from latentcast.runs.new import data_of
from latentcast.verification.audit.audit import audit
from latentcast.verification.report.lines import Section

RECORDS = 64
"""Of the test split, over which the difference from the training is measured."""


def export_folder(
    run: str | Path, folder: str | Path, fitted: Callable[[Config], Config] | None = None
) -> int:
    """Write ``model.safetensors`` (all weights of a run, as :func:`export` does), ``config.json``
    and the card ``README.md``; the audit for it reads files and trains nothing again. A model keeps
    the card that it has.

    Args:
        fitted: of public weights, as :func:`~latentcast.artifacts.export.export` takes it.

    Returns:
        optimizer steps of the weights.

    Raises:
        LatentcastError: no run, a damaged one, or a folder with other files in it.
    """
    run, folder = at_step(run), Path(folder)
    apart(folder, run=run_of(run))
    file = located(run)
    if not file.is_file():
        refuse_other_than_run(run)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / WEIGHTS).is_file():
        raise LatentcastError(f"{folder}: holds other files; name a new folder")
    if file.is_file():
        step = export(run, folder / WEIGHTS, fitted)
        encoder = Encoder.from_pretrained(folder, device="cpu")
        facts = NOTHING
        if is_public(file):
            facts = Facts(f"## Training\n\n{read_public(file).remarks}", elsewhere=True)
    else:
        encoder = Encoder.from_pretrained(run, device="cpu")
        verdict = verdict_of(audit(run_of(run), seconds=0))
        step = export(run, folder / WEIGHTS)
        difference = _difference(encoder, folder, data_of(run))
        facts = facts_of_run(run_of(run), encoder.weights, verdict, difference=difference)
    size = summary(encoder.config, encoder.network, encoder.layer_names)
    write_card(folder, encoder.config, encoder.weights, size, facts)
    beside = file.with_suffix(".md") if ships(run) else run / CARD
    if file.is_file() and not is_public(file) and beside.is_file():  # what is recorded of its run
        write_text(folder / CARD, beside.read_text(encoding="utf-8"))
    return step


def _difference(encoder: Encoder, folder: Path, store: Store | None) -> str:
    """Of what was written from what was trained; "" without test records."""
    rows = np.zeros(0, np.int64) if store is None else store.rows("test")[:RECORDS]
    if store is None or not len(rows):
        return ""
    exported = Encoder.from_pretrained(folder, device="cpu")
    try:
        before, after = (e.embed(store, "joined", rows=rows) for e in (encoder, exported))
    except LatentcastError as problem:  # such as features of a diverged run
        return f"The difference from the training was not measured: {problem}."
    return (
        f"Over {len(rows)} test records, the largest difference of a feature from that of the "
        f"weights in training is {np.abs(after - before).max():.1g}."
    )


def verdict_of(section: Section) -> str:
    """One sentence, with the checks that are broken and the reasons of those not measured."""
    parts = [section.summary]
    for line in section.lines:
        if line.verdict != "holds":
            parts.append(f"{line.id} is {line.verdict} ({line.text(2)})")
    return "; ".join(parts)
