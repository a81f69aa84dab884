"""A run folder held against its own promises, after the fact: finished, stopped or running.

Everything is read from the files and computed again: schedules by their formulas, distances in
float64, checksums, the weights by training the last stretch once more (:mod:`.replay`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from latentcast import config as configuration
from latentcast.config import Config
from latentcast.data.store import Store
from latentcast.engine import checkpoint
from latentcast.errors import LatentcastError
from latentcast.evaluation import duplicates, leaks
from latentcast.verification.audit import replay
from latentcast.verification.audit.run import (
    Check,
    Run,
    Unmeasured,
    step_of,
)
from latentcast.verification.claim import Evidence, Number, below
from latentcast.verification.formulas import decay_of, momentum_of, rate_of
from latentcast.verification.report.lines import Line, Section, Verdict

ROUNDING = 1e-12
"""Relative; a schedule is written to JSON with all its digits."""
DISTANCE = 1e-4
"""Relative; the recorded one was summed in float32."""
LAST_ROWS = 3
"""In which no collapse alarm may stand."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
HARMLESS = ("loss-spike", "copying-is-better")
"""Alarms that are no collapse: shown, not held against a run."""


def audit(path: Path, data: Path | None = None, seconds: float = 60.0) -> Section:
    """Check a run folder against its own claims.

    Args:
        data: where its store is now; where it was, by default.
        seconds: the last stretch is trained again for at most this long; 0 leaves it out.

    Raises:
        LatentcastError: its ``config.yaml`` cannot be read, without which nothing is promised.
    """
    start, run = time.perf_counter(), Run(path, data, seconds)
    try:
        lines = [_line(run, check) for check in (*CHECKS, *replay.CHECKS)]
    finally:
        replay.replay.cache_clear()  # it holds all weights
    facts: dict[str, Number] = {
        "recipe": run.config.recipe,
        "steps": run.config.train.steps,
        "newest checkpoint": run.steps[-1].name if run.steps else "none",
    }
    took = time.perf_counter() - start
    return Section(str(path), "run", tuple(lines), facts, seconds=took)


def _line(run: Run, check: Check) -> Line:
    start, verdict = time.perf_counter(), None
    try:
        evidence = check.probe(run)
    except Unmeasured as reason:
        evidence, verdict = Evidence(False, {"reason": str(reason)}), "not measured"
    except FileNotFoundError as problem:
        evidence = Evidence(False, {"missing": str(problem.filename)})
    except Exception as problem:  # a damaged file may break anything that reads it
        evidence = Evidence(False, {"raised": f"{type(problem).__name__}: {problem}"[:300]})
    if not evidence.holds and verdict is None and run.overtaken:
        told = "the run goes on and has put another checkpoint in the place of one; ask again"
        evidence, verdict = Evidence(False, {"reason": told}), "not measured"
    found: Verdict = "not measured" if verdict else "holds" if evidence.holds else "broken"
    took = time.perf_counter() - start
    return Line(check.id, check.sentence, check.source, found, evidence.numbers, took)


def _configuration(run: Run) -> Evidence:
    """Files alone are compared here; what they make of the weights the replay tells."""
    if not run.steps:
        raise Unmeasured("no checkpoint yet")
    wrong = []
    for step in run.steps:
        record = json.loads((step / "state.json").read_text())
        wrong += configuration.differences(run.config, checkpoint.config_of(step, record))
    return Evidence(not wrong, _named("differ", wrong) | {"checkpoints": len(run.steps)})


def _rows(run: Run) -> Evidence:
    rows, train = run.rows, run.config.train
    if not rows and not run.steps:
        raise Unmeasured("there is no row and no checkpoint yet")
    steps = [row["step"] for row in rows]
    newest = step_of(run.steps[-1]) if run.steps else 0
    reach = max([newest, *steps])
    wanted = [n for n in range(1, reach + 1) if n == 1 or n % train.log_every == 0]
    wanted += [train.steps] if reach >= train.steps > max(wanted, default=0) else []
    missing = sorted(set(wanted) - set(steps))
    numbers: dict[str, Number] = {"rows": len(rows), "expected": len(wanted)}
    return Evidence(steps == wanted, numbers | _named("missing steps", missing)
                    | _named("unexpected steps", _surplus(steps, wanted)))  # fmt: skip


def _surplus(steps: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Rows that have no place there, are there twice, or come before their time."""
    known = set(wanted)
    return [
        step
        for place, step in enumerate(steps)
        if step not in known or (place and step <= steps[place - 1])
    ]


def _finite(run: Run) -> Evidence:
    if not run.rows:
        raise Unmeasured("there is no row yet")
    wrong = [row["step"] for row in run.rows if not _number(row["loss"])
             or not _number(row["gradient_norm"])]  # fmt: skip
    return Evidence(not wrong, {"rows": len(run.rows)} | _named("not finite at steps", wrong))


def _skipped(run: Run) -> Evidence:
    if not run.rows:
        raise Unmeasured("there is no row yet")
    counts = [int(row["skipped"]) for row in run.rows]
    falls = [b["step"] for a, b in zip(run.rows, run.rows[1:], strict=False)
             if b["skipped"] < a["skipped"]]  # fmt: skip
    wrong = _named("falls at steps", falls)
    for step in run.steps:
        record = json.loads((step / "state.json").read_text())
        before = [row["skipped"] for row in run.rows if row["step"] <= record["step"]]
        after = [row["skipped"] for row in run.rows if row["step"] > record["step"]]
        if (
            max(before, default=0) > record["skipped"]
            or min(after, default=10**9) < record["skipped"]
        ):
            wrong |= {f"of {step.name}": record["skipped"]}
    return Evidence(not wrong and min(counts, default=0) >= 0,
                    {"skipped": max(counts, default=0), **wrong})  # fmt: skip


def _schedule(key: str, formula: Callable[[Config, int], float]) -> Callable[[Run], Evidence]:
    """The recorded value of each row beside the formula's."""

    def probe(run: Run) -> Evidence:
        if not run.rows:
            raise Unmeasured("no row yet")
        worst, where, recorded, expected = 0.0, 0, 0.0, 0.0
        for row in run.rows:
            wanted = formula(run.config, row["step"] - 1)
            gap = abs(row[key] - wanted) / max(abs(wanted), 1e-30)
            if not gap <= worst:  # also NaN
                worst, where, recorded, expected = gap, row["step"], row[key], wanted
        found = below(worst, ROUNDING, "largest relative difference")
        told: dict[str, Number] = {"rows": len(run.rows), **found.numbers}
        if not found.holds:
            told |= {"at step": where, "recorded": recorded, "expected": expected}
        return Evidence(found.holds, told)

    return probe


def _checkpoints(run: Run) -> Evidence:
    """Whole to the last bit, of the step they are named after, with every file accounted for."""
    every, last = run.config.train.checkpoint_every, max((r["step"] for r in run.rows), default=0)
    due = (last - 1) // every * every  # that of the last row may be being written just now
    if not run.steps and due <= 0:
        raise Unmeasured("no checkpoint yet")
    wrong, files = [], 0
    for step in run.steps:
        try:
            record = checkpoint.read_record(step)
        except LatentcastError as problem:
            wrong.append(f"{step.name}: {str(problem).split(': ', 1)[-1].split('; ')[0]}")
            continue
        held = {str(file.relative_to(step)) for file in step.rglob("*.safetensors")}
        files += len(held)
        if step.name != f"step-{record['step']:08d}":
            wrong.append(f"{step.name}: says it is of step {record['step']}")
        if held != set(record["sha256"]):
            wrong.append(f"{step.name}: files without a checksum")
    if max((step_of(step) for step in run.steps), default=0) < due:
        wrong.append(f"that of step {due} is missing")
    return Evidence(not wrong, {"checkpoints": len(run.steps), "files": files}
                    | _named("wrong", wrong))  # fmt: skip


def _weights(run: Run) -> Evidence:
    """All that the configuration has, of its shapes, finite; the moments of the same step."""
    shapes = {name: tuple(t.shape) for name, t in run.objective.state_dict().items()}
    wrong: list[str] = []
    for step in run.steps or [run.newest]:
        weights = run.weights if step == run.newest else checkpoint.read_tensors(step, "model")
        if {name: tuple(t.shape) for name, t in weights.items()} != shapes:
            wrong.append(f"{step.name}: other names or shapes")
        wrong += _not_finite(step, weights)
        moments = checkpoint.read_tensors(step, "optimizer")
        names = {f"{name}|{what}" for name in run.objective.trainable() for what in MOMENTS}
        if set(moments) != names:
            wrong.append(f"{step.name}: moments of other parameters than are trained")
        wrong += _not_finite(step, moments)
        counts = {float(t) for name, t in moments.items() if name.endswith("|step")}
        if counts != {float(step_of(step))}:
            wrong.append(f"{step.name}: moments have seen {sorted(counts)} steps")
    return Evidence(not wrong, {"tensors": len(shapes)} | _named("wrong", wrong))


def _not_finite(step: Path, tensors: dict[str, Tensor]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            yield f"{step.name}: {name} is not finite"


def _teacher(run: Run) -> Evidence:
    """The teacher is another than the student, and as far from it as the rows say."""
    if not run.pairs:
        raise Unmeasured("there is no teacher")
    weights = run.weights
    gap = size = 0.0
    for student, teacher in run.pairs:
        gap += float((weights[teacher].double() - weights[student].double()).square().sum())
        size += float(weights[student].double().square().sum())
    distance = math.sqrt(gap / size)
    numbers: dict[str, Number] = {"distance": distance}
    moved = any(rate_of(run.config, n) > 0 for n in range(run.record["step"]))
    apart = distance > 0 or not moved or momentum_of(run.config, run.record["step"] - 1) == 0
    row = next((row for row in run.rows if row["step"] == run.record["step"]), None)
    if row is None:
        return Evidence(apart, numbers | {"recorded": "no row of that step"})
    close = abs(row["teacher_distance"] - distance) <= DISTANCE * max(distance, 1e-12)
    numbers |= {"recorded": row["teacher_distance"], "relative tolerance": DISTANCE}
    return Evidence(apart and close, numbers)


def _data(run: Run) -> Evidence:
    """The shards' checksums are those written down before the first step, and true today."""
    promised = run.environment["data"]["sha256"]
    store = run.store
    differ = sorted(
        name
        for name in promised.keys() | store.checksums.keys()
        if promised.get(name) != store.checksums.get(name)
    )
    numbers: dict[str, Number] = {"shards": len(promised), "records": len(store)}
    if differ:
        return Evidence(False, numbers | _named("of other data", differ))
    try:
        store.verify()
    except LatentcastError as problem:
        return Evidence(False, numbers | {"damaged": str(problem).split("; ")[0]})
    return Evidence(True, numbers | {"bytes": "as their checksums say"})


def _probes(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    files = sorted(run.path.glob("probe-*.json"))
    if not files:
        raise Unmeasured("the run was not probed")
    for file in files:
        yield file.name, json.loads(file.read_text())


def _probe_belongs(run: Run) -> Evidence:
    """Probed were the weights of a checkpoint of this run, the newest there is."""
    wrong, held = [], 0
    for name, probe in _probes(run):
        held += 1
        told, step = probe["provenance"], step_of(run.newest)
        weights = str(told["weights"])
        if not weights.startswith(run.config.recipe) or not weights.endswith(f" step {step}"):
            wrong.append(f"{name}: of {weights}, the newest checkpoint is of step {step}")
        if told.get("training seed") != run.config.train.seed:
            wrong.append(f"{name}: of seed {told.get('training seed')}")
    return Evidence(not wrong, {"probes": held} | _named("wrong", wrong))


def _leaks(run: Run) -> Evidence:
    """No leak was written down, and none is found where both stores are at hand."""
    wrong, held, again = [], 0, 0
    for name, probe in _probes(run):
        held += 1
        found = [told for told in probe.get("leaks", []) if told["severity"] == "error"]
        wrong += [f"{name}: {told['kind']}, {told['count']} cases" for told in found]
        probed = Path(str(probe["data"].get("store")))
        if not (probed / "manifest.json").is_file():
            continue
        try:
            trained = run.store
        except Unmeasured:
            continue
        store = Store.open(probed)
        if store.checksums != probe["data"]["shards"]:
            wrong.append(f"{name}: the store probed holds other data now")
        elif store.modality == "ecg" and trained.modality == "ecg":
            again += 1
            wrong += _errors(name, leaks.check(store, trained))
        elif store.modality == "image" and trained.modality == "image":
            again += 1
            wrong += _errors(name, duplicates.check(store, trained))
    return Evidence(not wrong, {"probes": held, "searched again": again} | _named("leaks", wrong))


def _errors(name: str, findings: Sequence[leaks.Finding]) -> list[str]:
    return [f"{name}: {f.kind}, {f.count} cases" for f in findings if f.severity == "error"]


def _alarms(run: Run) -> Evidence:
    if not run.rows:
        raise Unmeasured("no row yet")
    names = {name for row in run.rows[-LAST_ROWS:] for name in row["alarms"]}
    collapsed = sorted(name for name in names if name not in HARMLESS)
    ever = {name for row in run.rows for name in row["alarms"]}
    told = _named("now", collapsed) | _named("other alarms now", sorted(names - set(collapsed)))
    return Evidence(not collapsed, {"alarms ever": len(ever), **told})


def _named(what: str, items: Sequence[object]) -> dict[str, Number]:
    """The first few of what is wrong, by name; nothing when nothing is."""
    if not items:
        return {}
    more = f" and {len(items) - 4} more" if len(items) > 4 else ""
    return {what: ", ".join(map(str, items[:4])) + more}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


CHECKS: tuple[Check, ...] = (
    Check("run.configuration", "Every checkpoint was written by the run's own config.yaml.",
          "design, law 2: one configuration a run", _configuration),
    Check("run.rows", "There is a row of the first, of every log_every-th and of the last step, "
          "each once and in order.", "monitors.journal", _rows),
    Check("run.finite", "Loss and gradient norm are finite in every row.", "design, law 6",
          _finite),
    Check("run.skipped", "The count of skipped updates never falls, and is the checkpoints'.",
          "design, law 2", _skipped),
    Check("run.lr", "The recorded learning rate is the schedule's at every step.",
          "I-JEPA, WarmupCosineSchedule", _schedule("lr", rate_of)),
    Check("run.weight-decay", "The recorded weight decay is the schedule's at every step.",
          "I-JEPA, CosineWDSchedule", _schedule("weight_decay", decay_of)),
    Check("run.momentum", "The recorded EMA momentum is linear over optimizer steps, not cosine.",
          "I-JEPA, train.py", _schedule("momentum", momentum_of)),
    Check("run.checkpoints", "Every checkpoint is whole, of the step in its name, and there where "
          "one is due.", "design, law 1", _checkpoints),
    Check("run.weights", "Weights and moments are finite, of the configuration's shapes, and of "
          "the checkpoint's step.", "design, law 1", _weights),
    Check("run.teacher", "The teacher is not the student, and as far from it as recorded.",
          "I-JEPA, section 3: an average of the context encoder", _teacher),
    Check("run.data", "The store holds the data the run was started on, undamaged.",
          "environment.json", _data),
    Check("run.probes", "The probe is of this run's newest checkpoint.", "design, law 5",
          _probe_belongs),
    Check("run.leaks", "Nothing of the test fold was trained on.", "evaluation.leaks", _leaks),
    Check("run.alarms", f"No collapse alarm stands in the last {LAST_ROWS} rows.",
          "monitors.collapse", _alarms),
)  # fmt: skip
