"""Put the encoder of a run into the package: weights, card and checksums of ``latentcast/NAME``.

    python scripts/ship_weights.py RUN NAME [--evaluation FOLDER] [--replay SECONDS]

The run has to be probed, its store to be at hand, and its audit (``latentcast verify RUN``) to
hold. The card is made of what the run and the evaluation say; nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from latentcast.artifacts.card import card
from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.export import SUFFIX, export_encoder
from latentcast.artifacts.summary import summary
from latentcast.errors import LatentcastError
from latentcast.files import digested, read_object, sha256, write_text
from latentcast.pretrained import models
from latentcast.report.card import facts_of_run
from latentcast.runs.new import data_of
from latentcast.verification.card import verdict_of
from latentcast.verification.verify import REPLAY, verify

MOST = 4_000_000
"""Bytes of the weights: the wheel is downloaded by everybody."""
RECORDS = 256
"""Of the test split, in which the difference of the stored weights is measured."""


def ship(run: Path, name: str, evaluation: Path | None = None, replay: float = REPLAY) -> None:
    """Raises LatentcastError: the audit of the run is broken, it was not scored, its store is gone,
    or the weights are too large; nothing is written then."""
    encoder, store = Encoder.from_pretrained(run, device="cpu"), data_of(run)
    if store is None or not any(run.glob("probe-*.json")):
        raise LatentcastError(f"{run}: its store is gone or it was not scored; probe it first")
    (section,) = verify(str(run), replay=replay).sections
    if not section.holds:
        raise LatentcastError(f"{run}: {verdict_of(section)}; ship a run whose audit holds")
    draft = models.FOLDER / f".{name}{SUFFIX}"
    try:
        export_encoder(encoder.network, encoder.config, encoder.step, draft, half=True)
        if (size := draft.stat().st_size) > MOST:
            raise LatentcastError(f"{name}: takes {size:,} bytes, at most {MOST:,} are shipped")
        stored = Encoder.from_pretrained(draft, device="cpu")
        rows = store.rows("test")[:RECORDS]
        before, after = (e.embed(store, "joined", rows=rows) for e in (encoder, stored))
        error = np.abs(after - before).max(axis=0) / np.maximum(before.std(axis=0), 1e-6)
        difference = (
            f"The weights are stored in {size:,} bytes, matrices and kernels as float16. Over "
            f"{len(rows)} test records, the largest difference of a feature from that of the run "
            f"is {error.max():.1e} of its standard deviation, the median over the features "
            f"{np.median(error):.1e}; all layers, mean over tokens. It is the encoder alone, "
            "without predictor."
        )
        facts = facts_of_run(run, encoder.weights, verdict_of(section), evaluation, difference)
        size_of = summary(encoder.config, encoder.network, encoder.layer_names)
        text = card(f"{models.OWNER}/{name}", encoder.config, encoder.weights, size_of, facts)
        draft.replace(models.FOLDER / f"{name}{SUFFIX}")
    finally:
        draft.unlink(missing_ok=True)
    write_text(models.FOLDER / f"{name}.md", text)
    record = read_object(models.FOLDER / models.CHECKSUMS)["sha256"]
    record |= {f: sha256(models.FOLDER / f) for f in (f"{name}{SUFFIX}", f"{name}.md")}
    content = json.dumps(digested({"sha256": record}), indent=1)
    write_text(models.FOLDER / models.CHECKSUMS, content + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--evaluation", type=Path, help="folder that latentcast evaluate wrote")
    parser.add_argument("--replay", type=float, default=REPLAY, help="seconds of the audit")
    options = parser.parse_args()
    ship(options.run, options.name, options.evaluation, options.replay)


if __name__ == "__main__":
    main()
