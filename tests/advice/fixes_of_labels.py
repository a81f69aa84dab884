"""What errors of label tables, tasks of their columns, fine-tuning and predictions say to type."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
from terminal import ECG, Attempt, Terminal, fixes, read_only, train, write_labelled

from conftest import WFDB
from latentcast.data.arrays import write_store
from latentcast.data.store import Store
from latentcast.data.tables.attached import label
from latentcast.recipes import recipe
from latentcast.signals.leads import CANONICAL_LEADS
from latentcast.workflows.finetune import finetune

MEAN = "mean '(.+)'"


def table(t: Terminal, *columns: str, name: str = "labels.csv", ids: str = "id") -> Path:
    """A row for each record: 0 and 1 in each column, or two texts in one of the name ``word``."""
    lines = [",".join([ids, *columns])]
    for n, record in enumerate(Store.open(t.at.probed).record_ids):
        cells = [f"a{n % 2}" if column == "word" else str(n % 2) for column in columns]
        lines.append(",".join([record, *cells]))
    t.new(name).write_text("\n".join(lines) + "\n")
    return t.new(name)


def store(t: Terminal) -> Path:
    return Path(shutil.copytree(t.at.probed, t.new("store")))


def labelled(t: Terminal, *columns: str, name: str = "labels.csv") -> Path:
    """A store with a table of such columns."""
    folder = store(t)
    label(Store.open(folder), table(t, *columns, name=name))
    return folder


def tuning(t: Terminal, data: Path, rest: str, out: str = "tuned") -> str:
    return f"finetune {t.at.run} --data {data} --epochs 1 --out {t.new(out)} {rest}"


# Tables ---------------------------------------------------------------------------------------


@fixes("cli/data.py", "latentcast probe RUN")
def _(t: Terminal) -> None:
    data = store(t)
    probe = t.prints(f"label {data} {table(t, 'rhythm')}").typed("latentcast (probe RUN .*)")
    t.works(probe.replace("RUN", str(t.run)))


@fixes("monitors/online.py", "its labels are columns of a table")
def _(t: Terminal) -> None:
    write_labelled(t.new("own"))
    label(Store.open(t.new("own")), table(t, "af"))
    printed = t.prints(
        train(t, ECG, t.new("own"), out="labelled-later") + " --set train.evaluate_every=1"
    )
    probe = printed.typed("latentcast (probe RUN --task af)")
    t.works(probe.replace("RUN", str(t.new("labelled-later"))))


@fixes("cli/data.py", "--kinds {}: write")
@fixes("data/tables/attached.py", "--kinds {}: is no column")
def _(t: Terminal) -> None:
    label = f"label {store(t)} {table(t, 'grade')} --kinds"
    if "COLUMN" in t.messages[0].text:
        kind = t.refused(f"{label} grade=class").typed("a kind of [a-z]+, ([a-z]+)")
        t.works(f"{label} grade={kind}")
    else:
        column = t.refused(f"{label} grad=classes").typed(r"they are (\w+)")
        t.works(f"{label} {column}=classes")


@fixes("data/tables/attached.py", "column '{}': has {} different whole")
def _(t: Terminal) -> None:
    file = table(t, "af")
    lines = [f"{row},{n % 4}" for n, row in enumerate(file.read_text().splitlines()[1:])]
    file.write_text("\n".join(["id,af,grade", *lines]) + "\n")
    label = f"label {store(t)} {file}"
    flags = t.prints(label).typed("--kinds grade=classes")
    assert "4 classes" in t.works(f"{label} {flags}")


@fixes("data/tables/attached.py", "table '{}'")
def _(t: Terminal) -> None:
    label = f"label {store(t)} {table(t, 'af', name='-labels.csv')}"
    t.works(f"{label} {t.refused(label).typed('(--name)$')} mine")


@fixes("data/tables/attached.py", "{}: has a split of its own")
def _(t: Terminal) -> None:
    label = f"label {store(t)} {table(t, 'af', 'split')}"
    file = t.new("labels.csv")
    file.write_text(file.read_text().replace(",0\n", ",train\n").replace(",1\n", ",test\n"))
    flag = t.refused(f"{label} --stratify").typed("leave out (--stratify)")
    t.works(f"{label} --stratify".replace(flag, ""))


@fixes("data/tables/attached.py", "column '{}': {} different texts")
def _(t: Terminal) -> None:
    with patch("latentcast.data.tables.attached.MOST_CLASSES", 1):
        label = f"label {store(t)} {table(t, 'af', 'word')}"
        found = t.works(f"{label} {t.prints(label).typed('--kinds .*=classes')}")
    assert "2 classes" in found


@fixes("data/tables/attached.py", "{}: is damaged")
@fixes("data/tables/attached.py", "{}: was made for the store")
def _(t: Terminal) -> None:
    data = labelled(t, "af")
    file = data / "tables" / "labels.npz"
    if "damaged" in t.messages[0].text:
        file.write_bytes(file.read_bytes()[:-9])
    else:
        write_labelled(t.new("other"), labels=["a", "b"] * 20, seed=1)
        shutil.copytree(data / "tables", t.new("other") / "tables")
        data = t.new("other")
        file = data / "tables" / "labels.npz"
    refused = t.refused(f"probe {t.run} --data {data} --task af")
    if "damaged" not in t.messages[0].text:
        refused.typed("remove it")
        file.unlink()
    again = refused.typed(r"\(latentcast (label)\)")
    names = Store.open(data).record_ids
    rows = [f"{name},{n % 2}" for n, name in enumerate(names)]
    t.new("labels.csv").write_text("\n".join(["id,af", *rows]) + "\n")
    t.works(f"{again} {data} {t.new('labels.csv')}")


@fixes("data/tables/columns.py", "column '{}': '{}' is not")
def _(t: Terminal) -> None:
    label = f"label {store(t)} {table(t, 'word')}"
    t.works(f"{label} {t.refused(f'{label} --kinds word=number').typed('--kinds .*')}")


@fixes("data/tables/file.py", "{}: has no column '{}'")
def _(t: Terminal) -> None:
    label = f"label {store(t)} {table(t, 'af')} --columns"
    t.works(f"{label} {t.refused(f'{label} fa').typed(MEAN)}")


@fixes("data/tables/file.py", "{}: columns {} could name")
def _(t: Terminal) -> None:
    file = table(t, "af")
    lines = file.read_text().splitlines()
    file.write_text("\n".join(f"{line},{line.split(',')[0]}" for line in lines) + "\n")
    file.write_text(file.read_text().replace("id,af,id", "id,af,file"))
    label = f"label {store(t)} {file}"
    t.works(f"{label} {t.refused(label).typed('--id-column .*')}")


@fixes("data/tables/file.py", "{}: no column names the record")
def _(t: Terminal) -> None:
    label = f"label {store(t)} {table(t, 'af', ids='study')}"
    refused = t.refused(label)
    t.works(f"{label} {refused.typed('(--id-column) COLUMN')} {refused.typed('it has ([a-z]+)')}")


@fixes("data/tables/match.py", "the store was divided without patients")
def _(t: Terminal) -> None:
    """Records of an array have no patients; in the table every five are of one."""
    data, file = t.new("store"), t.new("labels.csv")
    counts = np.random.default_rng(0).normal(size=(40, 12, 1000)).astype(np.float32)
    ids = [f"r{n}" for n in range(40)]
    write_store(
        data, signals=counts, sampling_rate=100, leads=CANONICAL_LEADS, unit="mV", record_ids=ids
    )
    rows = [f"{name},p{n // 5},{n % 2}" for n, name in enumerate(ids)]
    file.write_text("\n".join(["id,patient,af", *rows]) + "\n")
    label = f"label {data} {file}"
    t.works(f"{label} {t.refused(label).typed('(--stratify)$')}")


@fixes("data/tables/match.py", "{}: no {} of column")
def _(t: Terminal) -> None:
    file = table(t, "af", ids="study")
    lines = file.read_text().splitlines()
    rows = [f"x{n},{line}" for n, line in enumerate(lines[1:])]
    file.write_text("\n".join(["id,study,af", *rows]) + "\n")
    label = f"label {store(t)} {file}"
    t.works(f"{label} {t.refused(label).typed('(--id-column)$')} study")


@fixes("data/folder.py", "{}: was ingested with another table")
def _(t: Terminal) -> None:
    names = Store.open(t.at.store).record_ids
    file = t.new("labels.csv")
    file.write_text("\n".join(["id,af", *(f"{n},1" for n in names)]) + "\n")
    ingest = f"ingest {WFDB} --fs 100 --out {t.new('mine')}"
    t.works(ingest)
    label = t.refused(f"{ingest} --labels {file}").typed("latentcast (label .*) TABLE")
    t.works(f"{label} {file}")


# Tasks ----------------------------------------------------------------------------------------


@fixes("evaluation/tasks/columns.py", "task {}: no label table")
@fixes("evaluation/tasks/columns.py", "task {}: {} tables have")
def _(t: Terminal) -> None:
    data = labelled(t, "af")
    command = f"probe {t.run} --data {data} --task "
    if "tables have" in t.messages[0].text:
        label(Store.open(data), table(t, "af", name="others.csv"))
        t.works(command + t.refused(command + "af").typed("write (.+)"))
    else:
        t.works(command + t.refused(command + "aff").typed(MEAN))


@fixes("evaluation/tasks/__init__.py", "{}: has columns of labels")
def _(t: Terminal) -> None:
    data = write_labelled(t.new("store"), record_ids=Store.open(t.at.probed).record_ids.tolist())
    label(Store.open(data), table(t, "rhythm"))
    flag = t.refused(tuning(t, data, "")).typed("such as (--task .*)")
    t.works(tuning(t, data, flag))


@fixes("evaluation/tasks/groups.py", "task {}: cannot be read")
@fixes("evaluation/tasks/groups.py", "task {}: holds no classes", "write classes: {NAME")
@fixes("evaluation/tasks/groups.py", "task {}: {} is '{}'")
@fixes("evaluation/tasks/groups.py", "task {}: {} are no codes")
def _(t: Terminal) -> None:
    file = t.new("rhythm.yaml")
    command = f"probe {t.run} --data {t.at.probed} --task {file}"
    good = "classes: {NAME: [a, b]}\n"
    start = t.messages[0].text
    bad, pattern = {
        "task {}: cannot be r": ("classes: {AF: [", "write it anew"),
        "task {}: holds no cl": ("classes: []", "write (classes: .*) with"),
        "task {}: {} is '{}';": (good + "exclusive: 1", "write (true) or"),
        "task {}: {} are no c": ("classes: {NAME: [1.5]}", "write (classes: .*) with"),
    }[start[:20]]
    file.write_text(bad)
    typed = t.refused(command).typed(pattern)
    if typed == "true":
        file.write_text("classes: {A: [a], B: [b]}\nexclusive: true")
    else:
        file.write_text("classes: {A: [a], B: [b]}")
    t.works(command)


# Fine-tuning and predictions ------------------------------------------------------------------


@fixes("artifacts/tables.py", "{}: exists and holds no predictions")
@fixes("artifacts/tables.py", "{}: exists, and is where records")
def _(t: Terminal) -> None:
    t.works(tuning(t, t.at.probed, "--task labels"))
    tuned, out = t.new("tuned"), t.new("labels.csv")
    beside = "left out" in t.messages[0].text
    (t.new("labels.rejected.csv") if beside else out).write_text("id,sinus\n")
    assert t.refused(f"predict {tuned} {t.at.probed} --out {out}").typed("name (another file)")
    t.works(f"predict {tuned} {t.at.probed} --out {t.new('p.csv')}")


@fixes("artifacts/classifier.py", "{}: was trained without")
@fixes("artifacts/tables.py", "{}: predictions are written")
@fixes("cli/supervised.py", "latentcast predict {} FILES")
def _(t: Terminal) -> None:
    start = t.messages[0].text
    out = t.new("p.csv")
    if "was trained" in start:
        refused = t.refused(f"predict {t.at.run} {t.at.probed} --out {out}")
        assert refused.typed(r"\(latentcast (finetune)\)") == "finetune"
        t.works(tuning(t, t.at.probed, "--task labels"))
    elif "predictions are" in start:
        t.works(tuning(t, t.at.probed, "--task labels"))
        command = f"predict {t.new('tuned')} {t.at.probed} --out {t.folder}/"
        t.works(command + t.refused(command + "p.xlsx").typed("name it (.*)"))
    else:
        printed = t.prints(tuning(t, t.at.probed, "--task labels"))
        predict = printed.typed("latentcast (predict .*)").replace("FILES", str(t.at.probed))
        t.works(predict.replace("predictions.csv", str(out)))


@fixes("evaluation/supervision.py", "{}: task {} is")
def _(t: Terminal) -> None:
    data = labelled(t, "word")
    t.works(tuning(t, data, "--task word"))
    table(t, "word")
    file = t.new("labels.csv")
    file.write_text(file.read_text().replace("a0", "c"))
    label(Store.open(data), file)
    command = f"train --config {t.new('tuned')}/config.yaml --data {data}"
    t.refused(f"{command} --out {t.new('tuned')}").typed("another (--out)")
    t.works(tuning(t, data, "--task word", out="another"))


@fixes("objectives/supervised.py", "objective.class_weights has")
@fixes("objectives/supervised.py", "objective.class_weights is for")
def _(t: Terminal) -> None:
    number = "is for" in t.messages[0].text
    objective = {"kind": "supervised", "task": "labels", "names": ["age"] if number else ["a", "b"],
                 "target": "regression" if number else "multi-label"}  # fmt: skip

    def weighted(weights: object) -> Attempt:
        changes = {"objective": objective | {"class_weights": weights}, "ema": None}
        return lambda: recipe(ECG).updated(changes)

    fix = t.refused(weighted([2.0])).typed("to (null)|give one for each")
    t.works(weighted(None if fix == "null" else [2.0, 3.0]))


@fixes("workflows/finetune.py", "balanced: is of classes")
def _(t: Terminal) -> None:
    command = tuning(t, t.at.probed, "--task metadata:age")
    t.refused(f"{command} --balanced").typed("leave it out")
    t.works(command)


@fixes("workflows/finetune.py", "{}: cannot be written")
@fixes("cli/training.py", "{}: is a run of latentcast finetune")
def _(t: Terminal) -> None:
    command = tuning(t, t.at.probed, "--task metadata:age")
    if t.messages[0].file == "cli/training.py":
        t.works(command)
        more = t.refused(f"train {t.new('tuned')} --steps 9").typed("again, with more (--epochs)")
        t.works(f"{command.replace('--epochs 1', '')} {more} 2")
        return
    with read_only("latentcast.workflows.finetune.write_text"):
        assert t.refused(command).typed("the same command")
    t.works(command)


@fixes("workflows/finetune.py", "crop_seconds: is of")
def _(t: Terminal) -> None:
    def tuned(**crop: float) -> object:
        return finetune(t.at.image_run, t.at.digits, t.new("tuned"), epochs=1, batch_size=512,
                        from_scratch=True, quiet=True, **crop)  # fmt: skip

    assert t.refused(lambda: tuned(crop_seconds=2.0)).typed("leave it out")
    t.works(tuned)


@fixes("workflows/finetune.py", "{}: is a recipe and not")
def _(t: Terminal) -> None:
    command = (
        f"finetune nepa-ecg-tiny --data {t.at.probed} --epochs 1 --out {t.new('tuned')} --task "
        "labels --set encoder.width=48 encoder.heads=1 encoder.depth=1"
    )
    t.works(command.replace("--set", t.refused(command).typed("(--from-scratch)") + " --set"))


@fixes("cli/supervised.py", "{}: --patients needs")
def _(t: Terminal) -> None:
    t.works(tuning(t, t.at.probed, "--task labels"))
    command = f"predict {t.new('tuned')} {{}} --out {t.new('p.csv')} --patients"
    t.refused(command.format(t.at.npy)).typed("needs a store")
    t.works(command.format(t.at.probed))


@fixes("evaluation/supervision.py", "{}: the validation split of task")
def _(t: Terminal) -> None:
    data = labelled(t, "word")
    file = t.new("labels.csv")
    rows = file.read_text().splitlines()
    t.attempt(tuning(t, data, "--task word"))
    numbers = ["id,same", *(row.split(",")[0] + ",1" for row in rows[1:])]
    file.write_text("\n".join(numbers) + "\n")
    label(Store.open(data), file)
    t.refused(tuning(t, data, "--task same", out="another")).typed("label more validation records")
    file.write_text("\n".join(rows) + "\n")
    label(Store.open(data), file)
    t.works(tuning(t, data, "--task word", out="third"))
