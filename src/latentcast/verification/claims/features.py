"""What a probe reads of a store: every window, token and layer, and what it refuses to read."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latentcast.evaluation import tokens as frozen
from latentcast.evaluation.features import extract, pooling_of, readable
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, all_of, none
from latentcast.verification.observe.answers import TOKENS, WIDTH, Answers, Written, answers
from latentcast.verification.observe.compared import differences, refusal
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
OURS = "our protocol, docs of evaluation/features.py"
FLOAT = 2e-6
NOISE = {"lower": 1.0, "finer": 0.5, "upper": 0.2}


class _Finer(Written):
    """Its middle layer has two tokens to a patch, the second the negative of the first."""

    def token_layers(self, samples: Any) -> tuple[list[Tensor], Tensor]:
        layers, valid = super().token_layers(samples)
        layers[1] = torch.stack([layers[1], -layers[1]], 2).flatten(1, 2)
        return layers, valid

    def of_record(self, layer: str, row: int) -> tuple[Array, Array]:
        """All tokens of a record, window by window, and which are valid."""
        own = self.tokens[layer][row, self.windows()].reshape(-1, WIDTH)
        flags = self.valid[row, self.windows()].ravel()
        if layer != "finer":
            return own, flags
        return np.stack([own, -own], 1).reshape(-1, WIDTH), np.repeat(flags, 2)


class _Pooled(Written):
    pooling = "by itself"


@claim("probe.features", "The features of a record are those of its windows, averaged; of several "
       "layers also all of them joined; NaN of a record without a token.", source=OURS)  # fmt: skip
def features(twin: Twin) -> Evidence:
    """Of a source whose tokens are written here; some records, backwards; in several passes."""
    own, wrong = answers(twin), list[str]()
    source, rows = Written(own, "written", NOISE, 4), np.arange(len(own.split))[::-1]
    for pooling in ("mean", "mean+std"):
        for how in ("strided", "centre"):
            if how == "centre" and own.store.modality == "image":
                continue
            found = extract(source, own.store, rows, pooling=pooling, windows=how)
            expected = {name: source.pooled(name, pooling, how)[rows] for name in NOISE}
            expected["joined"] = np.concatenate(list(expected.values()), 1)
            wrong += differences(found, expected, FLOAT, f"{pooling}, {how}")
            flags = [row not in own.without_token for row in rows]
            wrong += differences(readable(found), flags, at="readable")
    two = Written(own, "two", {"a": 1.0, "b": 0.5}, 5)
    wrong += differences(list(extract(two, own.store, rows[:3])), ["a", "b", "joined"], at="of two")
    one = Written(own, "one", {"only": 1.0}, 5)
    wrong += differences(list(extract(one, own.store, rows[:3])), ["only"], at="of one layer")
    itself = _Pooled(own, "pooled", {"only": 1.0}, 5)
    found = extract(itself, own.store, rows[:9], pooling="mean+std")
    wrong += differences(found["only"], itself.pooled("only", "mean")[rows[:9]], FLOAT, "by itself")
    wrong += differences([pooling_of(itself, "max"), pooling_of(one, "max")], ["by itself", "max"])
    return all_of(none("differs", wrong), records=len(rows))


@claim("probe.tokens", "The tokens that an attentive head reads are all valid tokens of all "
       "windows of a record, in their order, whatever fits in memory.", source=OURS)  # fmt: skip
def tokens(twin: Twin) -> Evidence:
    """Layers with one and with two tokens to a patch; read together, one by one, and from a file;
    in batches of records that differ in their number of windows."""
    own = answers(twin)
    source, rows, wrong = _Finer(own, "written", NOISE, 4), np.arange(len(own.split)), list[str]()
    places = np.array([7, 0, 25, len(rows) - 1])
    size = 4 * len(rows) * TOKENS * WIDTH * (1 if own.store.modality == "image" else 2)
    for room in (frozen.BUDGET, 3 * size, 3 * size - 1, size, 7):
        with mock.patch.object(frozen, "BUDGET", room):
            layers = frozen.TokenLayers(source, own.store, rows)
            wrong += differences(list(layers), list(NOISE), at="layers")
            kept = [len(layers), "finer" in layers, "other" in layers]
            wrong += differences(kept, [3, True, False], at="held")
            for name in ("finer", "upper", "lower", "finer"):
                read = layers[name]
                values, valid = read[places[::-1]].batch(np.array([3, 2, 1, 0]))
                for place, row in enumerate(places.tolist()):
                    expected, flags = source.of_record(name, row)
                    at = f"{name} of record {row}, {room} bytes"
                    wrong += differences(valid[place], flags, at=f"{at}, validity")
                    wrong += differences(values[place][valid[place]], expected[flags], FLOAT, at)
                    wrong += differences(values[place][~valid[place]], 0 * expected[~flags], at=at)
                wrong += differences(
                    (len(read), read.width), (len(rows), WIDTH), at=f"{name}: size"
                )
            together = layers._in_memory.keys() if room >= 3 * size else ["finer"]
            wrong += differences(sorted(layers._in_memory), sorted(together), at=f"{room} bytes")
            answer = refusal(lambda layers=layers: layers["other"])
            wrong += differences(answer, "KeyError", at="a layer that is not there")
    wrong += _of_uneven()
    return all_of(none("differs", wrong), records=len(rows))


def _of_uneven() -> list[str]:
    """Records of one to three crops."""
    values = np.arange(36, dtype=np.float32).reshape(6, 3, 2)
    valid = np.ones((6, 3), dtype=bool)
    valid[4, 2] = False
    every = frozen.TokenFeatures(values, valid, np.array([0, 1, 3, 6]), np.arange(3))
    read, flags = every[np.array([2, 0, 1])].batch(np.array([1, 2, 0]))
    wrong = differences(flags.sum(1), [3, 6, 8], at="valid tokens of one, two and three crops")
    for place, crops in enumerate(([0], [1, 2], [3, 4, 5])):
        expected = values[crops].reshape(-1, 2)[valid[crops].ravel()]
        wrong += differences(read[place][flags[place]], expected, at=f"record {place}")
    last, _ = every.batch(np.array([2]))
    return wrong + differences(last[0], values[3:].reshape(-1, 2), at="the last record")


class _Broken(Written):
    """With a number that is not finite in one layer, or a layer too few."""

    spoiled = ""

    def token_layers(self, samples: Any) -> tuple[list[Tensor], Tensor]:
        layers, valid = super().token_layers(samples)
        if self.spoiled == "missing":
            return layers[:-1], valid
        layers[1] = torch.where(valid[..., None], torch.inf, layers[1])
        return layers, valid


@claim("probe.features-refused", "Features that are not finite, another number of layers than "
       "named, and recordings of other leads, rates or units are refused.",
       source=OURS)  # fmt: skip
def features_refused(twin: Twin) -> Evidence:
    own, rows = answers(twin), np.arange(6)
    broken, wrong = _Broken(own, "broken", NOISE, 4), list[str]()

    def refuses(source: Any, words: str) -> None:
        for read in (extract, lambda *of: frozen.TokenLayers(*of)["lower"]):
            answer = refusal(lambda read=read: read(source, own.store, rows))
            if not answer.startswith(words):
                wrong.append(f"{answer[:100]!r} and not {words!r}")

    refuses(broken, "broken, layer finer: features are not finite")
    broken.spoiled = "missing"
    refuses(broken, "broken: names 3 layers and returns 2")
    empty = extract(Written(own, "w", NOISE, 4), own.store, np.array(own.without_token))
    wrong += differences(np.isnan(empty["upper"]).all(), True, at="a record without a token")
    if own.store.modality == "ecg":
        _other_recordings(own, refuses)
    return all_of(none("answers that are others", wrong))


def _other_recordings(own: Answers, refuses: Any) -> None:
    path = own.store.path
    leads = " ".join(own.store.leads)
    for key, value, words in (
        ("sampling_rate", 250, f"{path}: sampling_rate is 100.0, w reads 250.0; re-ingest with "
                               "--fs 250.0"),
        ("scale", 0.001, f"{path}: a count is 0.005 mV, w reads 0.001 mV; re-ingest with --scale "
                         "0.001"),
        ("leads", ("I", "II"), f"{path}: leads are {leads}, w reads I II; name a store"),
    ):  # fmt: skip
        source = Written(own, "w", NOISE, 4)
        setattr(source, key, value)
        refuses(source, words)
    source = Written(own, "w", NOISE, 4)
    del source.scale
    refuses(source, "w: does not say which recordings it reads")
