"""Heads against plain references: Newton's method, all neighbours, a training that is replayed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from latentcast import randomness
from latentcast.evaluation.heads import PATHS, attentive, knn, logistic
from latentcast.evaluation.heads.base import Standardiser, in_eigenbasis
from latentcast.evaluation.tokens import TokenFeatures
from latentcast.nn.heads import AttentiveHead
from latentcast.nn.initialise import initialise
from latentcast.verification.claim import claim
from latentcast.verification.evidence import Evidence, above, all_of, at_most, greatest, none
from latentcast.verification.observe import plain_scores as plain
from latentcast.verification.observe.compared import differences, refusal
from latentcast.verification.observe.twin import Twin

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
NEAR = {"multi-label": 3e-3, "multi-class": 3e-3, "regression": 1e-8}
"""Of the outputs: two solvers promise 3e-4 and 1e-2 of the weights."""


def _features(seed: int, records: int, width: int) -> npt.NDArray[np.float32]:
    """Correlated, of very different sizes, one of them constant."""
    generator = np.random.Generator(np.random.PCG64(seed))
    x = generator.normal(size=(records, 3)) @ generator.normal(size=(3, width))
    x += 0.5 * generator.normal(size=(records, width))
    x = x * np.geomspace(0.01, 100.0, width) + np.linspace(-3, 3, width)
    x[:, 1] = 5.0
    return x.astype(np.float32)


def _standardised(x: Array, of: Array) -> Floats:
    """By the deviation over all of its records; 0 where nothing varies."""
    x, of = x.astype(np.float64), of.astype(np.float64)
    deviation = of.std(0)
    deviation[1] = np.inf
    return np.asarray((x - of.mean(0)) / deviation)


@claim("probe.solvers", "The linear heads of labels, classes and numbers are those that Newton's "
       "method finds for each penalty, of more records than features and of fewer.",
       source="scikit-learn's LogisticRegression(C) and Ridge(1 / C)")  # fmt: skip
def solvers(twin: Twin) -> Evidence:
    """In float64, without the eigenbasis in which the library solves; the penalties of each path,
    and of equal validation scores the strongest penalty."""
    wrong, furthest = list[str](), dict.fromkeys(NEAR, 0.0)
    for records, width in ((60, 7), (18, 30)):
        x = _features(records, records, width)
        z, rows = _standardised(x, x), np.arange(records)
        labels = np.stack([z[:, 0] + np.sin(rows) > 0, rows == 3, np.cos(rows) > -0.9], 1)
        classes = np.array([2, 0, 5])[(z[:, [0, 2, 3]] + np.sin(rows)[:, None]).argmax(1)]
        numbers = 40 + 3 * z[:, 0] + np.sin(5.0 * rows)
        for kind, y in (("multi-label", labels), ("multi-class", classes), ("regression", numbers)):
            path = list(PATHS["linear"][kind](x, y))  # type: ignore[index]
            for head, penalty in zip(path, _penalties(kind), strict=True):
                linear: Any = head
                expected = _solved(kind, z, y, penalty)
                gap = _gap(kind, linear.standardise(x) @ linear.weights + linear.intercepts,
                           z @ expected[0] + expected[1])  # fmt: skip
                furthest[kind] = greatest(furthest[kind], gap)
                at = f"{kind} of {records} by {width}, C {penalty:g}"
                wrong += differences(linear.penalty, penalty, at=at)
                wrong += differences(linear.validation, math.nan, at=f"{at}, validation")
                wrong += _of_head(kind, linear, z, x, at)
    # A label of one record in two hundred, whose intercept overshoots from 0.
    rows = np.arange(200)
    z = _standardised(_features(3, 200, 3), _features(3, 200, 3))
    few = (rows < 1)[:, None]
    for penalty in (1e-4, 1e-2, 1.0):
        (weights,), (intercepts,) = logistic.logistic_regression(z, few, [penalty])
        expected = _solved("multi-label", z, few, penalty)
        gap = float(np.abs(z @ weights + intercepts - z @ expected[0] - expected[1]).max())
        wrong += (
            [f"one positive, C {penalty:g}: {gap:.2g}"] if not gap <= NEAR["multi-label"] else []
        )
    near = [
        at_most(f"{kind}: furthest from Newton's", furthest[kind], bound)
        for kind, bound in NEAR.items()
    ]
    return all_of(none("differs", wrong), *near)


def _penalties(kind: str) -> tuple[float, ...]:
    return {
        "multi-label": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0),
        "multi-class": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "regression": (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    }[kind]


def _gap(kind: str, found: Floats, expected: Floats) -> float:
    """Of outputs, beside how far they reach from their mean; of classes, whose intercepts can move
    together, from that of the others."""
    if kind == "multi-class":
        found, expected = (part - part.mean(1, keepdims=True) for part in (found, expected))
        return float(np.abs(found - expected).max() / np.abs(expected).max())
    scale = np.maximum(np.abs(expected - expected.mean(0)).max(0), 1e-9)
    return float((np.abs(found - expected) / scale).max())


def _of_head(kind: str, head: Any, z: Floats, x: Array, at: str) -> list[str]:
    """What the head makes of its weights."""
    outputs = z @ head.weights + head.intercepts
    if kind != "multi-class":
        wrong = differences(head.predict(x), outputs, 1e-6, f"{at}, predictions")
        return wrong + differences(head.label_shares(x), 1 / (1 + np.exp(-outputs)), 1e-6,
                                   f"{at}, shares")  # fmt: skip
    odds = np.zeros((len(z), 7))
    odds[:, [0, 2, 5]] = np.exp(outputs - outputs.max(1, keepdims=True))
    predicted = np.array([0, 2, 5])[outputs.argmax(1)]
    wrong = differences(head.predict(x), predicted, at=f"{at}, classes")
    shares = odds / odds.sum(1, keepdims=True)
    return wrong + differences(head.class_shares(x, 7), shares, 1e-6, f"{at}, shares")


def _solved(kind: str, z: Floats, y: Array, penalty: float) -> tuple[Floats, Floats]:
    """Weights ``(F, C)`` or ``(F,)`` and intercepts, by Newton's method."""
    wide = np.column_stack([z, np.ones(len(z))])
    if kind == "regression":
        ridge_of = np.eye(wide.shape[1])
        ridge_of[-1, -1] = 0.0
        w = np.linalg.solve(ridge_of + penalty * wide.T @ wide, penalty * wide.T @ y)
        return w[:-1].astype(np.float64), np.asarray(w[-1], np.float64)
    if kind == "multi-label":
        columns = [_newton(wide, own[:, None].astype(np.float64), penalty) for own in y.T]
        found: Floats = np.concatenate(columns, 1)
    else:
        found = _newton(wide, (y[:, None] == np.unique(y)).astype(np.float64), penalty)
    return found[:-1], found[-1]


def _newton(wide: Floats, y: Floats, penalty: float) -> Floats:
    """Of one column a logistic regression, of several a softmax; steps are halved until they
    descend."""
    width = wide.shape[1]
    classes = y.shape[1]
    ridge_of = np.tile([*[1.0] * (width - 1), 0.0], classes)

    def shares(w: Floats) -> Floats:
        logits = wide @ w.reshape(classes, width).T
        if classes == 1:
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * logits))
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(odds / odds.sum(1, keepdims=True))

    def value(w: Floats) -> float:
        p = np.clip(shares(w), 1e-300, 1.0)
        own = (y * np.log(p)).sum()
        if classes == 1:
            own += ((1 - y) * np.log(np.clip(1 - p, 1e-300, 1.0))).sum()
        return float((ridge_of * w * w).sum() / 2 - penalty * own)

    w = np.zeros(classes * width)
    for _ in range(60):
        p = shares(w)
        gradient = ridge_of * w + penalty * ((p - y).T @ wide).ravel()
        hessian = np.diag(ridge_of + 1e-12)
        for a in range(classes):
            for b in range(classes):
                weight = p[:, a] * ((a == b) - p[:, b])
                part = penalty * wide.T @ (wide * weight[:, None])
                hessian[a * width : (a + 1) * width, b * width : (b + 1) * width] += part
        # All intercepts of a softmax can move together: the least step is taken.
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        length, before = 1.0, value(w)
        while value(w - length * step) > before + 1e-12 * abs(before) and length > 1e-9:
            length /= 2
        w = w - length * step
        if np.abs(step).max() < 1e-10:
            break
    return w.reshape(classes, width).T


@claim("probe.standardised", "A feature is divided by its deviation, unless that is the rounding "
       "of float32; heads are solved in a basis of the features that are not correlated.",
       source="our protocol, evaluation/heads/base.py")  # fmt: skip
def standardised(twin: Twin) -> Evidence:
    """Deviations a little above and below a millionth of the largest value; more features than
    records, and fewer."""
    wrong, sign = list[str](), np.where(np.arange(8) % 2, 1.0, -1.0)
    columns = [1000.0 * (1 + share * sign) for share in (0.6e-6, 1.6e-6, 3e-6, 1.0)]
    x = np.column_stack([*columns, 0.0 * sign, -columns[1], 1e-28 * sign])
    scale: Any = Standardiser.fit(x)
    deviation = x.std(0)
    expected = np.where([0, 1, 1, 1, 0, 1, 1], deviation, np.inf)
    wrong += differences(scale.std, expected, 1e-12, "deviations")
    wrong += differences(scale.mean, x.mean(0), 1e-12, "means")
    for records, width in ((12, 5), (5, 12), (6, 6)):
        z = np.sin(np.arange(records * width) ** 1.5).reshape(records, width)
        own, energy, basis, centre = (part.numpy() for part in in_eigenbasis(z))
        centred = z - z.mean(0)
        wrong += differences(centre, z.mean(0), at="centre")
        wrong += differences(own @ basis.T, centred, at=f"{records} by {width}")
        wrong += differences(own.T @ own, np.diag(energy), at="correlations")
        wrong += differences(basis.T @ basis, np.eye(len(energy)), at="basis")
        rank = np.linalg.matrix_rank(centred)
        kept = rank if width > records else width
        wrong += differences(len(energy), int(kept), at=f"directions of {records} by {width}")
        # No energy of a rounding is below 0, which a head would take for a curvature.
        wrong += [f"energy {e:.1e}" for e in energy if e < 0]
    return all_of(none("differs", wrong))


@claim("probe.neighbours", "kNN looks at the twenty training records of the highest cosine, of "
       "equal ones the first, and votes by exp(cosine / 0.07): labels, classes and numbers.",
       source="Wu et al. 2018")  # fmt: skip
def neighbours(twin: Twin) -> Evidence:
    """Copies that tie for the last places, a zero vector, few records, blocks of a few queries."""
    generator, wrong = np.random.Generator(np.random.PCG64(9)), list[str]()
    bank = generator.integers(-2, 3, (50, 3)).astype(np.float32)
    queries = generator.integers(-2, 3, (17, 3)).astype(np.float32)
    bank[3], queries[2] = 0.0, 0.0
    rows = np.arange(50)
    targets: dict[str, Array] = {
        "multi-label": np.stack([bank[:, 0] > 0, rows % 3 == 0], 1),
        "multi-class": np.where(bank[:, 1] > 0, 1, np.where(bank[:, 2] > 0, 3, 0)),
        "regression": bank @ [1.0, 2.0, 3.0] + np.sin(rows),
    }
    sizes = [np.linalg.norm(v.astype(np.float64), axis=1) for v in (queries, bank)]
    cosine = queries.astype(np.float64) @ bank.T / np.maximum(np.outer(*sizes), 1e-12)
    cosine = np.round(cosine, 6)
    for cells in (2**24, 120):
        with mock.patch.object(knn, "CELLS", cells):
            for k in (1, 4, 20, 49, 50, 70):
                found, similar = knn.neighbours(bank, queries, k)
                order = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, 50)]
                near = np.take_along_axis(cosine, order, 1)
                wrong += differences(
                    np.round(similar, 5), np.round(near, 5), 2e-5, f"k {k}, cosine"
                )
                # Ties of rounded cosines: in float32 they may be a digit apart.
                wrong += differences(np.sort(found, 1)[2], np.sort(order, 1)[2], at=f"k {k}, ties")
            wrong += _voted(bank, queries, targets, cosine, f"{cells} cells")
    few = knn.neighbours(bank[:4], queries)[0]
    wrong += differences(np.sort(few, 1), np.tile(np.arange(4), (17, 1)), at="few records")
    return all_of(none("differs", wrong))


def _voted(
    bank: Array, queries: Array, targets: dict[str, Array], cosine: Floats, at: str
) -> list[str]:
    wrong = list[str]()
    for kind, y in targets.items():
        (head,) = knn.path(bank, y, kind)  # type: ignore[arg-type]
        rows, similar = knn.neighbours(bank, queries)
        weight = np.exp(similar.astype(np.float64) / 0.07)
        weight /= weight.sum(1, keepdims=True)
        if kind == "multi-class":
            shares = np.stack([(weight * (y[rows] == c)).sum(1) for c in range(6)], 1)
            wrong += differences(head.class_shares(queries, 6), shares, at=f"{at}: class shares")
            wrong += differences(
                head.predict(queries), shares.round(9).argmax(1), at=f"{at}: classes"
            )
            continue
        expected = (
            (weight * y[rows]).sum(1) if y.ndim == 1 else np.einsum("qk,qkl->ql", weight, y[rows])
        )
        wrong += differences(head.predict(queries), expected, at=f"{at}: {kind}")
        if kind == "multi-label":
            wrong += differences(head.label_shares(queries), expected, at=f"{at}: label shares")
    # Of equally near records the first: classes that only their order tells apart.
    doubled, order = np.repeat(bank[4:9], 8, 0), np.arange(40)
    found = knn.neighbours(doubled, bank[4:9], 3)[0]
    for query, taken in enumerate(found.tolist()):
        same = [n for n in order.tolist() if (_unit(doubled[n]) == _unit(bank[4 + query])).all()]
        wrong += differences(taken, same[:3], at=f"{at}: copies of {query}")
    return wrong


def _unit(vector: Array) -> Array:
    return np.asarray(np.round(vector / max(float(np.linalg.norm(vector)), 1e-12), 5))


@claim("probe.attentive", "The attentive head is trained as it is written: AdamW, its rates, "
       "batches and looks at the validation records; of the looks the best is kept, of equal ones "
       "the first.", source="our protocol, evaluation/heads/attentive.py")  # fmt: skip
def attentive_training(twin: Twin) -> Evidence:
    """Replayed in a loop of our own, of three kinds, for fewer steps: by epochs and the least."""
    wrong, moved = list[str](), math.inf
    for kind, epochs, least in (("multi-label", 20, 160), ("multi-class", 3, 33),
                                ("regression", 21, 9)):  # fmt: skip
        train, validation = _tokens(70, 1), _tokens(24, 2)
        y, of_validation = _taught(train, kind), _taught(validation, kind)
        with mock.patch.multiple(attentive, LEAST_STEPS=least, EPOCHS=epochs):
            found = attentive.fit(train, y, validation, of_validation, kind, seed=5)  # type: ignore[arg-type]
        steps = max(2 * epochs, least)  # 70 records are two batches
        expected = _replayed(train, y, validation, of_validation, kind, steps)
        at = f"{kind}: "
        wrong += differences(
            (found.step, found.validation, found.centre, found.spread, found.penalty),
            (expected["step"], expected["validation"], *expected["scale"], None), 1e-6, f"{at}kept",
        )  # fmt: skip
        wrong += differences(found.mean, expected["mean"], 1e-5, f"{at}mean")
        wrong += differences(found.std, expected["std"], 1e-5, f"{at}deviation")
        wrong += differences(found.outputs(validation), expected["outputs"], 1e-3, f"{at}outputs")
        wrong += _of_attentive(found, kind, validation, expected["outputs"])
        wrong += _refused(train, y, validation, of_validation, kind)
        start = AttentiveHead(train.width, found.network.linear.out_features)
        initialise(start, 5, "head")
        moved = min(moved, float((start.query - found.network.query).detach().abs().max()))
    return all_of(none("differs", wrong), above("least movement of a query", moved, 1e-3))


def _refused(
    train: TokenFeatures, y: Array, validation: TokenFeatures, of_validation: Array, kind: str
) -> list[str]:
    """A training that leaves the finite numbers."""
    spoiled = replace(train, values=np.where(train.values > 9, np.inf, train.values))
    with (
        mock.patch.multiple(attentive, LEAST_STEPS=2, EPOCHS=1, LOOKS=1),
        np.errstate(invalid="ignore"),
    ):
        answer = refusal(lambda: attentive.fit(
            spoiled, y, validation, of_validation, kind))  # type: ignore[arg-type]  # fmt: skip
    words = {"multi-label": "auroc: labels [0, 1] have scores that are not finite",
             "regression": "probe: the validation split has one",
             "multi-class": "attentive head: its training left the finite"}[kind]  # fmt: skip
    return [] if answer.startswith(words) else [f"{kind}: {answer[:90]!r} and not {words!r}"]


def _of_attentive(head: Any, kind: str, tokens: TokenFeatures, outputs: Floats) -> list[str]:
    if kind == "multi-label":
        wrong = differences(head.label_shares(tokens), 1 / (1 + np.exp(-outputs)), 1e-3, "shares")
        return wrong + differences(head.predict(tokens), outputs, 1e-3, "logits")
    if kind == "regression":
        return differences(head.predict(tokens), outputs[:, 0] * head.spread + head.centre, 1e-2,
                           "values")  # fmt: skip
    odds = np.exp(outputs - outputs.max(1, keepdims=True))
    shares = np.pad(odds / odds.sum(1, keepdims=True), ((0, 0), (0, 2)))
    wrong = differences(head.class_shares(tokens, outputs.shape[1] + 2), shares, 1e-3, "shares")
    return wrong + differences(head.predict(tokens), outputs.argmax(1), at="classes")


def _tokens(records: int, seed: int) -> TokenFeatures:
    """Of records of one to three crops of four tokens, some not valid; a feature is constant. The
    records are chosen out of more, backwards."""
    generator = np.random.Generator(np.random.PCG64(seed))
    crops = 1 + np.arange(records + 3) % 3
    begins = np.concatenate([[0], np.cumsum(crops)])
    values = generator.normal(size=(begins[-1], 4, 6)) * 3 + 1
    valid = generator.random((begins[-1], 4)) < 0.7
    valid[:, 1] = True
    values[..., 5] = 2.0
    filled = np.where(valid[..., None], values, 0.0).astype(np.float32)
    return TokenFeatures(filled, valid, begins, np.arange(records + 3)[::-1])[np.arange(records)]


def _own(tokens: TokenFeatures, place: int) -> Array:
    """All valid tokens of a record ``(n, D)``, crop by crop."""
    row = int(tokens.rows[place])
    crops = range(int(tokens.begins[row]), int(tokens.begins[row + 1]))
    return np.concatenate([tokens.values[crop][tokens.valid[crop]] for crop in crops])


def _taught(tokens: TokenFeatures, kind: str) -> Array:
    """What the mean of a record's tokens says."""
    means = np.stack([_own(tokens, n).mean(0) for n in range(len(tokens))]) - 1.0
    if kind == "regression":
        return np.asarray(50 + 5 * means[:, 0])
    if kind == "multi-class":
        return np.asarray(means[:, :3].argmax(1))
    return means[:, :2] > 0.3


def _replayed(
    train: TokenFeatures, y: Array, validation: TokenFeatures, of_validation: Array, kind: str,
    steps: int,
) -> dict[str, Any]:  # fmt: skip
    """The training, record by record where that is quick enough."""
    every = np.concatenate([_own(train, n) for n in range(len(train))]).astype(np.float64)
    mean, std = every.mean(0), every.std(0)
    std[5] = 1.0
    scale = (float(y.mean()), float(y.std())) if kind == "regression" else (0.0, 1.0)
    goal = torch.from_numpy(np.asarray((y - scale[0]) / scale[1] if kind == "regression" else y))
    outputs = {"multi-label": 2, "multi-class": 3, "regression": 1}[kind]
    network = AttentiveHead(train.width, outputs)
    initialise(network, 5, "head")
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=2e-3, betas=(0.9, 0.999), eps=1e-8, fused=True,
    )  # fmt: skip
    read, flags = _padded(train, mean, std)
    tested, tested_flags = _padded(validation, mean, std)
    looks = [-(-steps * (n + 1) // 20) for n in range(20)]
    best: dict[str, Any] = {"validation": -math.inf}
    (metric, *_) = plain.METRICS[kind].values()
    order = np.arange(0)
    for step in range(1, steps + 1):
        epoch, second = divmod(step - 1, 2)
        if not second:
            stream = randomness.key(5, f"attentive head, epoch {epoch}")
            order = randomness.permutation(stream, 70)
        done = step / steps
        rate = done / 0.1 if done < 0.1 else (1 + math.cos(math.pi * (done - 0.1) / 0.9)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * rate
        batch = order[64:] if second else order[:64]
        with torch.enable_grad():
            loss = _loss(network(read[batch], flags[batch]), goal[batch], kind)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step in looks:
            with torch.no_grad():
                found = network(tested, tested_flags).double().numpy()
            predicted = found if kind == "multi-label" else found[:, 0] * scale[1] + scale[0]
            predicted = found.argmax(1) if kind == "multi-class" else predicted
            reached = plain.mean(metric(of_validation, predicted, 3))
            if reached > best["validation"]:
                best = {"validation": reached, "step": step, "outputs": found, "scale": scale,
                        "mean": mean, "std": std}  # fmt: skip
    return best


def _padded(tokens: TokenFeatures, mean: Floats, std: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    """Valid tokens first."""
    own = [torch.from_numpy((_own(tokens, n) - mean) / std).float() for n in range(len(tokens))]
    flags = [torch.ones(len(part), dtype=torch.bool) for part in own]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(own, batch_first=True), pad(flags, batch_first=True)


def _loss(outputs: torch.Tensor, targets: torch.Tensor, kind: str) -> torch.Tensor:
    """The mean over records, and over labels."""
    if kind == "multi-class":
        chosen = outputs.log_softmax(1)[torch.arange(len(targets)), targets]
        return -chosen.mean()
    if kind == "regression":
        return (outputs[:, 0] - targets.float()).square().mean()
    signs = targets.float() * 2 - 1
    return -F.logsigmoid(signs * outputs).mean()
