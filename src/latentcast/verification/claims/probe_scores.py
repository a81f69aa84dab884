"""What a score counts: pairs, classes, resamples and neighbours."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.evaluation import features, metrics, protocol
from latentcast.evaluation.heads import knn
from latentcast.evaluation.tasks import Kind, task
from latentcast.nn import pooling
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, equal, true
from latentcast.verification.observe.pictures import is_image
from latentcast.verification.observe.probe import (
    Foreign,
    can_be_probed,
    counted_score,
    encoder,
    labelled_store,
    naive_auroc,
)
from latentcast.verification.observe.recordings import has_twelve_leads, is_ecg, recordings
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/protocol.py"
FLOAT = 2.0**-23
EXACT = 1e-12


@claim("probe.valid-tokens", "Features are pooled over valid tokens only.", source=OURS)
def valid_tokens(twin: Twin) -> Evidence:
    """Tokens that are not valid are NaN: whoever touches one shows. And of a recording shorter than
    the training length, as the probe and ``embed`` read it."""
    generator = torch.Generator().manual_seed(twin.seed)
    tokens = torch.randn(5, 9, 4, generator=generator)
    valid = torch.rand(5, 9, generator=generator) < 0.6
    valid[:, 4], valid[0] = True, True
    spoiled = torch.where(valid[..., None], tokens, torch.nan)
    parts = []
    for how in ("mean", "std", "last"):
        pooled = pooling.pool(spoiled, valid, how)
        gaps = [
            float((pooled[row].double() - _pooled(tokens[row][valid[row]], how)).abs().max())
            for row in range(5)
        ]
        parts.append(at_most(how, float(np.max(gaps)), 16 * FLOAT))  # NaN, where one is
    if not has_twelve_leads(twin):
        return all_of(*parts)
    source: Any = encoder(twin)
    store = recordings(twin).device_store
    row = store.row_of("short")
    layers, flags = source.token_layers(store.take([row], [0], source.length))
    own = layers[source.layer_names.index(source.layer)][0][flags[0]]
    expected = torch.cat([_pooled(own, how) for how in ("mean", "std")]).numpy()
    read = features.extract(source, store, np.array([row]), pooling="mean+std")
    embedded = source.embed([store.recording(row)], pooling="mean+std")
    for name, vectors in (("probe", read[source.layer]), ("embed", embedded)):
        apart = float(np.abs(vectors[0] - expected).max() / np.abs(expected).max())
        parts.append(at_most(f"{name}: relative difference", apart, 256 * FLOAT))
    invalid = int((~flags).sum())
    return all_of(*parts, above("tokens that are not valid", invalid, 0))


def _pooled(tokens: Tensor, how: str) -> Tensor:
    own = tokens.double()
    mean = own.sum(0) / len(own)
    spread = (((own - mean) ** 2).sum(0) / len(own)).sqrt()
    return {"mean": mean, "std": spread, "last": own[-1]}[how]


@claim("probe.auroc", "AUROC is the share of pairs in order, ties half; the macro average is over "
       "classes that have pairs.",
       source="Mann & Whitney 1947; NEPA-ECG, defect 7: 0.5 made up", about=is_ecg)  # fmt: skip
def auroc(twin: Twin) -> Evidence:
    """Scores with many ties, a class without a positive and one without a negative."""
    rows = np.arange(40)
    scores = np.stack([(rows * step) % 7 for step in (1, 2, 3, 5, 4)], 1).astype(np.float64)
    targets = np.stack([rows % 3 == 0, rows % 5 < 2, (rows * rows) % 11 < 3,
                        rows < 0, rows >= 0], 1)  # fmt: skip
    measured = metrics.auroc(targets, scores)
    gaps = [abs(measured[c] - naive_auroc(targets[:, c], scores[:, c])) for c in range(3)]
    macro = abs(float(metrics.macro(measured)) - counted_score(targets, scores))
    return all_of(
        at_most("largest difference from all pairs", float(np.max(gaps)), EXACT),
        at_most("of the mean over classes that have pairs", macro, EXACT),
        equal("classes without a pair that are undefined", int(np.isnan(measured).sum()), 2),
    )


def _example(kind: Kind) -> tuple[Array, Array, Array]:
    """Targets (30, 2) and two scores that are related to them; or classes (30,) and two guesses."""
    rows = np.arange(30)
    if kind == "multi-class":
        classes = rows % 3
        return classes, np.where(rows % 4, classes, 0), np.where(rows % 5 > 1, classes, 1)
    targets = np.stack([rows % 3 == 0, rows % 2 == 0], 1)
    noise = np.sin(3.0 * rows[:, None] + np.arange(2))
    return targets, targets + 1.2 * noise, targets + 1.3 * np.roll(noise, 1, 0)


@claim("probe.paired", "Differences are taken in the same resamples.",
       source=OURS, about=can_be_probed)  # fmt: skip
def paired(twin: Twin) -> Evidence:
    """A source beside its copy differs by nothing in any resample; two sets of predictions, as
    counted one by one."""
    sources = [_Noise(twin), _Noise(twin, "a copy")]
    store = labelled_store(twin)
    with mock.patch.object(metrics, "FEWEST", 1):  # the fixture is a small one
        report = protocol.probe(sources, store, task(None, store), resamples=25)
    copies = [difference.estimate for difference in report.differences]
    spread = max(row.score.main.high - row.score.main.low for row in report.rows)
    kind: Kind = "multi-label" if is_ecg(twin) else "multi-class"
    targets, *both = _example(kind)
    names = ("x", "y") if is_ecg(twin) else ("x", "y", "z")
    counts = metrics.draw([f"p{n // 2}" for n in range(30)], 40, 0)
    first, second = (
        metrics.score(kind, targets, predictions, names, counts)[1] for predictions in both
    )
    measured = metrics.difference(first, second)
    gaps = []
    for times in counts:
        picks = np.repeat(np.arange(30), times)
        one, other = (counted_score(targets[picks], predictions[picks]) for predictions in both)
        gaps.append(one - other)
    low, high = np.quantile(gaps, [0.025, 0.975])
    apart = float(max(abs(measured.low - low), abs(measured.high - high)))
    return all_of(
        at_most("a source beside its copy, width", max(e.high - e.low for e in copies), 0.0),
        above("spread over resamples", spread, 1e-3),
        at_most("interval from one that was counted", apart, EXACT),
        low=measured.low, high=measured.high,
    )  # fmt: skip


class _Noise(Foreign):
    """Features that have nothing to do with the labels: scores differ between resamples."""

    def token_layers(self, samples: Array) -> tuple[list[Tensor], Tensor]:
        (tokens,), valid = super().token_layers(samples)
        return [torch.sin(1e4 * tokens)], valid


@claim("probe.patients", "The bootstrap draws patients with all their records.",
       source="Davison & Hinkley 1997, section 3.8", about=is_ecg)  # fmt: skip
def patients(twin: Twin) -> Evidence:
    """Records of one patient come and go together, and as many patients are drawn as there are."""
    owners = ["a", "b", "a", "", "c", "b", "a", ""]
    drawn = metrics.draw(owners, 200, 0)
    together = bool((drawn[:, 0] == drawn[:, 2]).all() and (drawn[:, 0] == drawn[:, 6]).all()
                    and (drawn[:, 1] == drawn[:, 5]).all())  # fmt: skip
    counts = drawn[:, [0, 1, 3, 4, 7]].sum(1)
    left_out = float((drawn[:, 0] == 0).mean())
    return all_of(
        true("records of a patient together", together),
        true("unnamed ones apart", bool((drawn[:, 3] != drawn[:, 7]).any())),
        equal("patients drawn", f"{counts.min()} to {counts.max()}", "5 to 5"),
        at_most("share left out, from 0.8^5", abs(left_out - 0.8**5), 0.15),
    )


@claim("probe.cosine", "kNN goes by the cosine, and votes by exp(cosine / 0.07).",
       source="Wu et al. 2018; specification, D21", about=is_image)  # fmt: skip
def cosine_votes(twin: Twin) -> Evidence:
    """Vectors of very different lengths, one query at a time in float64."""
    generator = np.random.default_rng(twin.seed)
    size = np.exp(generator.standard_normal((60, 1)))
    bank = (size * (generator.standard_normal((60, 6)) + 1.0)).astype(np.float32)
    queries = (3 * generator.standard_normal((15, 6)) + 1.0).astype(np.float32)
    labels = generator.integers(0, 3, 60)
    rows, similarities = knn.neighbours(bank, queries, 5)
    predicted = knn.Neighbours(bank, labels, "multi-class").predict(queries)
    worst, order, votes = 0.0, 0, 0
    wide = bank.astype(np.float64)
    for n, query in enumerate(queries.astype(np.float64)):
        cosine = (wide @ query) / np.sqrt((wide**2).sum(1) * (query**2).sum())
        voters = np.argsort(-cosine)[:20]
        nearest = voters[:5]
        order += int((np.sort(rows[n]) != np.sort(nearest)).any())
        worst = max(worst, float(np.abs(np.sort(similarities[n])[::-1] - cosine[nearest]).max()))
        ballot = np.bincount(labels[voters], np.exp(cosine[voters] / 0.07), 3)
        votes += int(predicted[n] != ballot.argmax())
    return all_of(
        at_most("largest difference from the cosine", worst, 16 * FLOAT),
        equal("queries with other neighbours", order, 0),
        equal("with another class", votes, 0),
    )
