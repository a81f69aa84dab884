"""What a run folder promises: rows, schedules, checkpoints, data, scores.

Everything is read from the files and computed again: schedules by their formulas, distances in
float64, checksums; the weights by training the last stretch once more (:mod:`.replay`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.engine.checkpoint import step_of
from latentcast.engine.optimizer import matrices_of
from latentcast.errors import LatentcastError
from latentcast.evaluation.protocol import leaks_of
from latentcast.evaluation.results import Finding, undamaged
from latentcast.files import read_object
from latentcast.images.stored import StoredImage
from latentcast.signals.recording import Recording
from latentcast.verification.audit.run import Run, Unmeasured, check, norm
from latentcast.verification.evidence import Evidence, above, all_of, at_most, first_of, none
from latentcast.verification.formulas import decay_of, momentum_of, rate_of
from latentcast.workflows.sources import training_stores

ROUNDING = 1e-12
"""Relative; a schedule is written to JSON with all its digits."""
DISTANCE = 1e-4
"""Relative; the recorded one was summed in float32."""
SUMMED = 1e-5
"""Of a deviation: millivolts are read back in float32."""
SUMMING = 60.0
"""Seconds for the sums over the training rows."""
LAST_ROWS = 3
"""In which no collapse alarm may stand."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
HARMLESS = ("loss-spike", "copying-is-better")
"""Alarms that are no collapse: shown, not held against a run."""


@check("run.configuration", "Every checkpoint was written by the run's own config.yaml.",
       source="design, law 2: one configuration a run")  # fmt: skip
def configurations(run: Run) -> Evidence:
    """Files alone are compared here; what they make of the weights is for the replay."""
    if not run.steps:
        raise Unmeasured("no checkpoint yet")
    wrong = []
    for step in run.steps:
        record = read_object(step / "state.json")
        then = run.config.as_of(step_of(step))
        wrong += configuration.differences(then, checkpoint.config_of(step, record))
    return all_of(none("differ", wrong), checkpoints=len(run.steps))


@check("run.rows", "There is a row of the first, of every log_every-th and of the last step, each "
       "once and in order.", source="monitors.journal")  # fmt: skip
def rows(run: Run) -> Evidence:
    train = run.config.train
    if not run.rows and not run.steps:
        raise Unmeasured("there is no row and no checkpoint yet")
    steps = [row["step"] for row in run.rows]
    reach = max([step_of(run.steps[-1]) if run.steps else 0, *steps])
    ends = {change["step"] for change in run.changes("train.steps")
            if change["step"] == change["train.steps"][0]} | {train.steps}  # fmt: skip
    expected = [
        n for n in range(1, reach + 1)
        if n == 1 or n in ends or n % run.log_every(n) == 0
    ]  # fmt: skip
    return all_of(
        none("missing steps", sorted(set(expected) - set(steps))),
        none("unexpected steps", _unexpected(steps, expected)),
        rows=len(steps), expected=len(expected),
    )  # fmt: skip


def _unexpected(steps: Sequence[int], expected: Sequence[int]) -> list[int]:
    """Rows that have no place there, are there twice, or come before their time."""
    pairs, due = zip([0, *steps], steps, strict=False), set(expected)
    return [step for before, step in pairs if step not in due or step <= before]


@check("run.finite", "Loss and gradient norm are finite in every row.", source="design, law 6")
def finite(run: Run) -> Evidence:
    wrong = [row["step"] for row in run.some_rows()
             if not (_is_finite(row["loss"]) and _is_finite(row["gradient_norm"]))]  # fmt: skip
    return all_of(none("not finite at steps", wrong), rows=len(run.rows))


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@check("run.skipped", "The count of skipped updates never falls, and is the checkpoints'.",
       source="design, law 2")  # fmt: skip
def skipped(run: Run) -> Evidence:
    pairs = zip(run.some_rows(), run.rows[1:], strict=False)
    falls = [b["step"] for a, b in pairs if b["skipped"] < a["skipped"]]
    others = []
    for step in run.steps:
        record = read_object(step / "state.json")
        before = [row["skipped"] for row in run.rows if row["step"] <= record["step"]]
        after = [row["skipped"] for row in run.rows if row["step"] > record["step"]]
        if not max([0, *before]) <= record["skipped"] <= min([record["skipped"], *after]):
            others.append(f"{step.name}: {record['skipped']}")
    counts = [int(row["skipped"]) for row in run.rows]
    return all_of(
        none("falls at steps", falls),
        none("of a checkpoint, another", others),
        at_most("less than none", -min(counts), 0),
        skipped=max(counts),
    )


def _against_formula(run: Run, key: str, formula: Callable[[Config, int], float]) -> Evidence:
    """The recorded value of each row beside the formula's."""
    worst, where, recorded, expected = 0.0, 0, 0.0, 0.0
    for row in run.some_rows():
        value = formula(run.config, row["step"] - 1)
        gap = abs(row[key] - value) / max(abs(value), 1e-30)
        if not gap <= worst:  # also NaN
            worst, where, recorded, expected = gap, row["step"], row[key], value
    return all_of(
        at_most("largest relative difference", worst, ROUNDING),
        rows=len(run.rows), at_step=where, recorded=recorded, by_the_formula=expected,
    )  # fmt: skip


@check("run.lr", "The recorded learning rate is the schedule's at every step.",
       source="I-JEPA, WarmupCosineSchedule")  # fmt: skip
def lr(run: Run) -> Evidence:
    return _against_formula(run, "lr", rate_of)


@check("run.weight-decay", "The recorded weight decay is the schedule's at every step.",
       source="I-JEPA, CosineWDSchedule")  # fmt: skip
def weight_decay(run: Run) -> Evidence:
    return _against_formula(run, "weight_decay", decay_of)


@check("run.momentum", "The recorded EMA momentum is linear over optimizer steps, not cosine.",
       source="I-JEPA, train.py")  # fmt: skip
def momentum(run: Run) -> Evidence:
    return _against_formula(run, "momentum", momentum_of)


@check("run.checkpoints", "Every checkpoint is whole, of the step in its name, and there where one "
       "is due.", source="design, law 1")  # fmt: skip
def checkpoints(run: Run) -> Evidence:
    """Whole to the last bit, with every file accounted for."""
    every, last = run.config.train.checkpoint_every, max([0, *(r["step"] for r in run.rows)])
    due = (last - 1) // every * every  # that of the last row may be being written just now
    if not run.steps and due <= 0:
        raise Unmeasured("no checkpoint yet")
    wrong, count = [], 0
    for step in run.steps:
        try:
            record = checkpoint.read_record(step)
        except LatentcastError as problem:
            wrong.append(f"{step.name}: {str(problem).split(': ', 1)[-1].split('; ')[0]}")
            continue
        count += len(record["sha256"])
        if step.name != f"step-{record['step']:08d}":
            wrong.append(f"{step.name}: its record is of step {record['step']}")
    if max([0, *map(step_of, run.steps)]) < due:
        wrong.append(f"that of step {due} is missing")
    return all_of(none("wrong", wrong), checkpoints=len(run.steps), files=count)


@check("run.weights", "Weights and moments are finite, of the configuration's shapes, and of the "
       "checkpoint's step.", source="design, law 1")  # fmt: skip
def weights(run: Run) -> Evidence:
    shapes = {name: tuple(t.shape) for name, t in run.objective.state_dict().items()}
    matrices = matrices_of(run.objective, run.config.optimizer)
    wrong: list[str] = []
    for step in run.steps or [run.newest]:
        tensors = run.weights if step == run.newest else checkpoint.read_tensors(step, "model")
        if {name: tuple(t.shape) for name, t in tensors.items()} != shapes:
            wrong.append(f"{step.name}: other names or shapes")
        wrong += _not_finite(step, tensors)
        moments = checkpoint.read_tensors(step, "optimizer")
        names = {
            f"{name}|{what}"
            for name in run.objective.trainable()
            for what in (("momentum",) if name in matrices else MOMENTS)
        }
        if set(moments) != names:
            wrong.append(f"{step.name}: moments of other parameters than are trained")
        wrong += _not_finite(step, moments)
        counts = {float(t) for name, t in moments.items() if name.endswith("|step")}
        if counts != {float(step_of(step))}:
            wrong.append(f"{step.name}: moments of {sorted(counts)} steps")
    return all_of(none("wrong", wrong), tensors=len(shapes))


def _not_finite(step: Path, tensors: dict[str, Tensor]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            yield f"{step.name}: {name} is not finite"


@check("run.teacher", "The teacher is not the student, and as far from it as recorded.",
       source="I-JEPA, section 3: an average of the context encoder")  # fmt: skip
def teacher(run: Run) -> Evidence:
    if not run.pairs:
        raise Unmeasured("there is no teacher")
    w, step = run.weights, run.record["step"]
    gap = norm(w[t].double() - w[s].double() for s, t in run.pairs)
    distance = gap / norm(w[s] for s, _ in run.pairs)
    moved = any(rate_of(run.config, n) > 0 for n in range(step))
    parts = []
    if moved and momentum_of(run.config, step - 1) != 0:
        parts.append(above("distance", distance, 0.0))
    row = next((row for row in run.rows if row["step"] == step), None)
    if row is not None:
        off = abs(row["teacher_distance"] - distance) / max(distance, 1e-12)
        parts.append(at_most("relative difference from the recorded one", off, DISTANCE))
    if not parts:
        raise Unmeasured("nothing has moved yet, and there is no row of that step")
    return all_of(*parts)


@check("run.data", "The store has the data the run was started on, undamaged.",
       source="environment.json")  # fmt: skip
def data(run: Run) -> Evidence:
    """The shards' checksums are those written down before the first step, and true today."""
    recorded, store = run.environment["data"]["sha256"], run.store
    shards = sorted(recorded.keys() | store.checksums.keys())
    others = [name for name in shards if recorded.get(name) != store.checksums.get(name)]
    same = all_of(none("of other data", others), shards=len(recorded), records=len(store))
    if not same.holds:
        return same
    damaged = []
    try:
        store.verify()
    except LatentcastError as problem:
        damaged.append(str(problem).split("; ")[0])
    return all_of(same, none("damaged", damaged))


@check("run.normalisation", "Mean and deviation are those of the valid samples of the training "
       "rows, and of no others.", source="specification, defect 12")  # fmt: skip
def normalisation(run: Run) -> Evidence:
    """Summed in float64 over every training row, without the statistics in the manifest."""
    used, store, until = run.config.input.normalisation, run.store, time.monotonic() + SUMMING
    if used is None:
        raise Unmeasured("the input is not normalised")
    if (used.mean, used.std) != (store.manifest.statistics.mean, store.manifest.statistics.std):
        raise Unmeasured("it is not the store's: set by hand, of filtered samples, or of a run "
                         "that this one began from")  # fmt: skip
    rows = store.rows("train")
    sums = np.zeros((3, len(used.mean)))
    for n, row in enumerate(rows.tolist()):
        if time.monotonic() > until:
            raise Unmeasured(f"{n} of {len(rows)} training rows were summed in {SUMMING:g} s")
        sums += _sums(store[row])
    count, mean = sums[0], sums[1] / sums[0]
    std = np.sqrt(sums[2] / count - mean**2)
    shift, stretch = np.abs(used.mean - mean) / std, np.abs(used.std / std - 1)
    return all_of(
        at_most("largest difference of a mean, in deviations", float(shift.max()), SUMMED),
        at_most("of a deviation, relative", float(stretch.max()), SUMMED),
        rows=len(rows), rows_of_the_store=len(store),
    )  # fmt: skip


def _sums(record: Recording | StoredImage) -> npt.NDArray[np.float64]:
    """Of each channel: valid values, their sum and that of their squares."""
    if isinstance(record, Recording):
        values, valid = record.signal.astype(np.float64), record.valid
    else:
        pixels = record.pixels.reshape(-1, record.pixels.shape[-1]).T
        values, valid = pixels / 255.0, np.ones(pixels.shape, bool)
    values = np.where(valid, values, 0.0)
    return np.stack([valid.sum(1), values.sum(1), np.square(values).sum(1)])


def _probes(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(run.path.glob("probe-*.json"))
    if not files:
        raise Unmeasured("the run was not probed")
    for file in files:
        yield file.name, undamaged(read_object(file))


@check("run.probes", "Every probe is of this run: of its recipe, its seed and a step it has taken.",
       source="design, law 5")  # fmt: skip
def probes(run: Run) -> Evidence:
    """A probe of earlier weights may stand beside one of the newest."""
    wrong, count, step = [], 0, step_of(run.newest)
    for name, probe in _probes(run):
        count += 1
        provenance = probe["provenance"]
        probed = str(provenance["weights"])
        of = re.search(r" step (\d+)$", probed)
        if not probed.startswith(run.config.recipe) or of is None or int(of[1]) > step:
            wrong.append(f"{name}: of {probed}, the newest checkpoint is of step {step}")
        if provenance.get("training seed") != run.config.train.seed:
            wrong.append(f"{name}: of seed {provenance.get('training seed')}")
    return all_of(none("wrong", wrong), probes=count)


@check("run.leaks", "Nothing of the test fold was trained on.", source="evaluation.leaks")
def no_leaks(run: Run) -> Evidence:
    """None was written down, and none is found where the stores are at hand: those of the run and
    of the runs before it whose weights it began with, as ``probe`` has them."""
    wrong, count, again = [], 0, 0
    try:
        own = run.store
    except Unmeasured:
        own = None
    for name, probe in _probes(run):
        count += 1
        errors = [leak for leak in probe.get("leaks", []) if leak["severity"] == "error"]
        wrong += [f"{name}: {leak['kind']}, {leak['count']} cases" for leak in errors]
        probed = Path(str(probe["data"].get("store")))
        if not (probed / "manifest.json").is_file():
            continue
        stores = training_stores(run.path, run.config, own)
        store = Store.open(probed)
        trained = [one for one in stores if one.modality == store.modality]
        if stores and store.checksums != probe["data"]["shards"]:
            wrong.append(f"{name}: the store that was probed has other data now")
        elif trained:
            again += 1
            wrong += _errors(name, leaks_of(store, trained))
    return all_of(none("leaks", wrong), probes=count, searched_again=again)


def _errors(name: str, findings: Sequence[Finding]) -> list[str]:
    return [f"{name}: {f.kind}, {f.count} cases" for f in findings if f.severity == "error"]


@check("run.alarms", f"No collapse alarm stands in the last {LAST_ROWS} rows.",
       source="monitors.collapse")  # fmt: skip
def alarms(run: Run) -> Evidence:
    now = sorted({name for row in run.some_rows()[-LAST_ROWS:] for name in row["alarms"]})
    ever = {name for row in run.rows for name in row["alarms"]}
    return all_of(
        none("now", [name for name in now if name not in HARMLESS]),
        alarms_ever=len(ever), harmless_now=first_of(name for name in now if name in HARMLESS),
    )  # fmt: skip
