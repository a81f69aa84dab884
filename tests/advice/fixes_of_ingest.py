"""What errors of ingest, of its sources and of arrays in memory say to type."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
from terminal import (
    AXES,
    CANONICAL_LEADS,
    EEG_AXES,
    LAYOUT,
    WFDB,
    Terminal,
    another_process,
    fixes,
    full_disk,
    wfdb,
    write_array,
)  # fmt: skip

from dev.fuzz.xml_files import sample, write_muse
from latentcast.artifacts.encoder import Encoder
from latentcast.data.convert import Converter
from latentcast.data.folder import lock
from latentcast.data.ingest import ingest
from latentcast.signals.readers.arrays import ArraySource
from latentcast.source import Source
from ray_stand_in import ray_of_threads

UNNAMED = f"--sampling-rate 100 --unit mV {LAYOUT} "


def recordings(t: Terminal, axes: str = AXES) -> str:
    return f"ingest {t.at.npy} --out {t.new()} {axes} "


def rejected(store: Path) -> str:
    return (store / "quarantine.csv").read_text(encoding="utf-8")


# Options of recordings ------------------------------------------------------------------------


@fixes("data/codecs/counts.py", "--scale {}")
def _(t: Terminal) -> None:
    flag = t.refused(recordings(t) + "--scale 0").typed("(--scale) 0: must be positive")
    t.works(recordings(t) + f"{flag} 0.002")


@fixes("data/codecs/counts.py", "--shortest {}")
def _(t: Terminal) -> None:
    flag = t.refused(recordings(t) + "--shortest -1").typed("(--shortest) -1: must not be neg")
    t.works(recordings(t) + f"{flag} 0")


@fixes("data/codecs/counts.py", "--leads: names no")
def _(t: Terminal) -> None:
    flag = t.refused(lambda: ingest(WFDB, t.new(), fs=100, leads=[])).typed("--leads I,II,V1")
    t.works(f"ingest {WFDB} --out {t.new()} --fs 100 {flag}")


@fixes("data/codecs/counts.py", "--leads {}:")
def _(t: Terminal) -> None:
    command = f"ingest {t.at.eeg_npy} --out {t.new()} {UNNAMED} --leads Fp1,Fp2 "
    t.works(command + t.refused(command).typed("--signal other"))


@fixes("signals/leads.py", "lead '{}': is no known")
def _(t: Terminal) -> None:
    command = f"ingest {WFDB} --out {t.new()} --fs 100 --leads "
    t.works(command + t.refused(command + "V66").typed("mean '(V6)'"))


def without(t: Terminal, element: str) -> str:
    """The command for a MUSE file in which an element is missing."""
    file = write_muse(t.new(), sample())
    text = re.sub(f"<{element}>.*?</{element}>", "", file.read_text(encoding="utf-8"))
    file.write_text(text, encoding="utf-8")
    return f"inspect {file} "


@fixes("signals/readers/xml.py", "{} is missing; give --unit")
def _(t: Terminal) -> None:
    command = without(t, "LeadAmplitudeUnits")
    t.works(command + t.refused(command).typed("--unit uV"))


@fixes("signals/readers/xml.py", "{} is missing; give --sampling-rate")
def _(t: Terminal) -> None:
    command = without(t, "SampleBase")
    assert "500 Hz" in t.works(command + t.refused(command).typed("--sampling-rate 500"))


@fixes("data/codecs/counts.py", "lasts {}")
def _(t: Terminal) -> None:
    flag = t.refused(recordings(t) + "--shortest 11").typed("smaller (--shortest)")
    t.works(recordings(t) + f"{flag} 10")


@fixes("data/codecs/counts.py", "sampling rate is")
def _(t: Terminal) -> None:
    folder = wfdb(t.new("both"))
    (folder / "ptbxl_database.csv").unlink()
    t.works(f"ingest {folder} --workers 1 --out {t.new('some')}")
    flag = t.holding(rejected(t.new("some"))).typed(r"--fs \d+")
    t.works(f"ingest {folder} --workers 1 --out {t.new('all')} {flag}")
    assert "sampling rate is" not in rejected(t.new("all"))


@fixes("signals/recording.py", "{}; ingest with --missing-leads")
def _(t: Terminal) -> None:
    command = f"ingest {WFDB} --out {t.new()} --fs 100 --leads I,V7 "
    t.works(f"{command} {t.refused(command).typed('--missing-leads mask')}")


@fixes("signals/recording.py", "{}; give it as NaN")
def _(t: Terminal) -> None:
    encoder, x = Encoder.from_pretrained(t.at.run), np.load(t.at.npy)[:2].swapaxes(1, 2)
    about = {"sampling_rate": 100, "unit": "mV"}
    error = t.refused(lambda: encoder.embed(x[:, :11], leads=CANONICAL_LEADS[:11], **about))
    way = eval(f"dict({error.typed('missing_leads=.mean.')})")
    t.works(lambda: encoder.embed(x[:, :11], leads=CANONICAL_LEADS[:11], **about, **way))
    x[:, 11] = float(error.typed("give it as (NaN) in an array"))
    t.works(lambda: encoder.embed(x, leads=CANONICAL_LEADS, **about))
    way = eval(f"dict({error.typed('missing_leads=.mask.')})")
    axes = {"leads": CANONICAL_LEADS, "layout": "records,leads,samples", **about}
    np.save(t.new("x.npy"), x)
    t.works(lambda: encoder.embed(ingest(t.new("x.npy"), t.new(), quiet=True, **axes, **way).store))


@fixes("signals/counts.py", "{} (or ingest all with a coarser")
@fixes("signals/counts.py", "{} (or ingest all with a finer")
def _(t: Terminal) -> None:
    beyond = "coarser" in t.messages[0].text
    file = write_array(t.new("a.npy"), 12, 15 if beyond else 1e-4)
    command = f"ingest {file} --out {t.new()} {AXES} "
    flag = t.refused(command).typed("(?:coarser|finer) (--scale)")
    t.works(f"{command} {flag} {0.01 if beyond else 1e-6}")


@fixes("signals/channels.py", "--signal other: takes")
def _(t: Terminal) -> None:
    command = f"ingest {t.at.eeg_npy} --out {t.new()} --signal other {UNNAMED} "
    t.works(command + t.refused(f"ingest {WFDB} --out {t.new()} --signal other --fs 100").typed(
        "--leads Fp1,Fp2"))  # fmt: skip


@fixes("signals/channels.py", "--leads {}: a name is empty")
@fixes("signals/channels.py", "--leads {}: '{}' occurs twice")
def _(t: Terminal) -> None:
    command = f"ingest {t.at.eeg_npy} --out {t.new()} --signal other {UNNAMED} --leads "
    bad = "Fp1," if "empty" in t.messages[0].text else "Fp1,Fp1"
    t.works(command + t.refused(command + bad).typed("--leads (Fp1,)") + "Fp2")


@fixes("signals/channels.py", "--unit: is empty")
def _(t: Terminal) -> None:
    command = f"ingest {t.at.eeg_npy} --out {t.new()} {EEG_AXES.replace('--unit mV', '')} --unit "
    t.works(command + t.refused(command + "' '").typed(r"mV or (\S+)\."))


@fixes("signals/recording.py", "unit '{}'")
def _(t: Terminal) -> None:
    axes = AXES.replace("mV", "volts")
    unit = t.refused(recordings(t, axes)).typed("use V, (mV)")
    t.works(recordings(t, axes.replace("volts", unit)))


# Sources --------------------------------------------------------------------------------------


@fixes("signals/readers/arrays.py", "{}: an array does not name")
def _(t: Terminal) -> None:
    file = t.new("a.npy")
    np.save(file, np.random.default_rng(0).normal(0, 0.3, (4, 3, 1000)).astype(np.float32))
    command = f"ingest {file} --kind ecg --out {t.new()} "
    t.works(command + t.refused(command).typed(r"example (--sampling.*) \("))


@fixes("signals/readers/arrays.py", "layout '{}': is unknown")
def _(t: Terminal) -> None:
    axes = AXES.replace("records,samples,leads", "records,sample,lead")
    layout = t.refused(recordings(t, axes)).typed(r"or (records\S+)")
    t.works(recordings(t, axes.replace("records,sample,lead", layout)))


@fixes("signals/readers/arrays.py", "{}: has shape {}; with")
def _(t: Terminal) -> None:
    axes = AXES.replace(",V6", "")
    assert t.refused(recordings(t, axes)).typed("name every lead")
    t.works(recordings(t))


@fixes("signals/readers/ptbxl.py", "{}: {} lies in {}, the records")
def _(t: Terminal) -> None:
    shutil.copytree(WFDB, t.new("in"))
    table = t.new("in") / "ptbxl_database.csv"
    (table.parent / "tables").mkdir()
    table.rename(table.parent / "tables" / table.name)
    command = f"ingest {t.new('in')} --out {t.new()} --fs 100"
    shutil.move(table.parent / "tables" / table.name, t.refused(command).typed("table to (.*)"))
    t.works(command)


@fixes("signals/readers/ptbxl.py", "{}: holds every record")
def _(t: Terminal) -> None:
    command = f"ingest {WFDB} --out {t.new()} "
    t.works(command + t.refused(command).typed("with (--fs 100)"))


@fixes("signals/readers/wfdb_folder.py", "--unit: is in the headers")
def _(t: Terminal) -> None:
    error = t.refused(f"ingest {WFDB} --out {t.new()} --fs 100 --unit mV")
    assert error.typed("leave it out")
    t.works(f"ingest {WFDB} --out {t.new()} --fs 100")
    other = error.typed("--signal other")
    t.works(f"ingest {WFDB} --out {t.new('o')} --fs 100 --unit mV {other} --leads I,V1")


@fixes("data/formats.py", "{}: holds no {}", "name one file, {}")
def _(t: Terminal) -> None:
    t.new("in").mkdir()
    file = write_array(t.new("in") / "only.npy", 12)
    named = t.refused(f"ingest {t.new('in')} --out {t.new()}").typed("name one file, (.+)")
    assert named == str(file)
    t.works(f"ingest {named} --out {t.new()} {AXES}")


@fixes("data/formats.py", "{}: {}; name the folder")
def _(t: Terminal) -> None:
    t.new("a.txt").write_text("")
    assert t.refused(f"ingest {t.new('a.txt')} --out {t.new()}").typed("name the folder or array")
    t.works(recordings(t))


@fixes("data/formats.py", "--{}: is for sources")
@fixes("data/arguments.py", "--{}: is for {}")
def _(t: Terminal) -> None:
    bad = "--layout records,leads,samples" if "kind" in t.messages[0].text else "--size 8"
    assert t.refused(f"ingest {WFDB} --fs 100 --out {t.new()} {bad}").typed("leave it out")
    t.works(f"ingest {WFDB} --fs 100 --out {t.new()}")


@fixes("data/ingest.py", "{}: holds no records")
def _(t: Terminal) -> None:
    np.save(t.new("a.npy"), np.zeros((0, 1000, 12), np.float32))
    error = t.refused(f"ingest {t.new('a.npy')} --out {t.new()} {AXES}")
    assert error.typed("is this the right (folder)")
    t.works(recordings(t))


# The folder of the store ----------------------------------------------------------------------


@fixes("data/folder.py", "{}: cannot be written", "choose another --out")
@fixes("data/ingest.py", "choose another --out")
@fixes("data/folder.py", "{}: is not empty")
def _(t: Terminal) -> None:
    taken = t.new()
    if "not empty" in t.messages[0].text:
        taken.mkdir()
        (taken / "letter.txt").write_text("")
    else:
        taken.write_text("a file")
    error = t.refused(recordings(t))
    t.works(recordings(t).replace(f"--out {taken}", f"{error.typed('--out')} {t.new('other')}"))


@fixes("data/folder.py", "{}: already holds another")
def _(t: Terminal) -> None:
    t.works(recordings(t))
    error = t.refused(recordings(t) + "--shortest 2")
    other = f"{error.typed('another (--out)')} {t.new('other')}"
    t.works(f"ingest {t.at.npy} {AXES} --shortest 2 {other}")
    assert error.typed("remove that folder")
    shutil.rmtree(t.new())
    t.works(recordings(t) + "--shortest 2")


@fixes("data/folder.py", "{}: the source '{}' has changed")
def _(t: Terminal) -> None:
    command = f"ingest {write_array(t.new('a.npy'), 12)} --out {t.new()} {AXES}"
    t.works(command)
    write_array(t.new("a.npy"), 12, records=11)
    shutil.rmtree(t.refused(command).typed("remove (.+) to ingest it anew"))
    t.works(command)


@fixes("data/folder.py", "{}: another ingest is writing")
def _(t: Terminal) -> None:
    with another_process(lambda: lock(t.new())):
        flag = t.refused(recordings(t)).typed("another (--out)")
        t.works(f"ingest {t.at.npy} {AXES} {flag} {t.new('other')}")


@fixes("data/folder.py", "{}: cannot be used")
@fixes("data/writer.py", "{}: cannot be used")
def _(t: Terminal) -> None:
    """What a killed ingest goes on from is damaged."""
    file = t.new() / ("ingest.json" if "folder" in t.messages[0].file else "shard-00000.json")
    with patch("latentcast.data.ingest.finish", side_effect=OSError):
        t.attempt(recordings(t))
    file.write_text("{")
    shutil.rmtree(t.refused(recordings(t)).typed("remove (.+) and ingest again"))
    t.works(recordings(t))


@fixes("data/ingest.py", "free space or repair")
@fixes("data/manifest.py", "{}: the ingest was interrupted")
def _(t: Terminal) -> None:
    with full_disk(20_000):
        printed = t.attempt(recordings(t))
    if "interrupted" in t.messages[0].text:
        printed = t.attempt(f"inspect {t.new()}")
    assert t.holding(printed).typed("run the same ingest again")
    t.works(recordings(t))


@fixes("data/readers.py", "{}: a reader process died")
def _(t: Terminal) -> None:
    command = f"ingest {WFDB} --fs 100 --out {t.new()} "
    with patch.object(Source, "batch", 1), patch.object(Converter, "_open", die):
        flag = t.refused(command + "--workers 2").typed("again with (--workers 1)")
    t.works(command + flag)


def die(*_: object) -> None:
    assert multiprocessing.parent_process() is not None
    os._exit(3)


@fixes("data/ingest.py", "{}: record {} is in quarantine")
def _(t: Terminal) -> None:
    folder = wfdb(t.new("source"))
    samples = min((folder / "records100").rglob("*.dat"))
    good = samples.read_bytes()
    samples.write_bytes(good[:-1] + b"#")
    command = f"ingest {folder} --fs 100 --workers 1 --out {t.new()}"
    t.works(command)
    samples.write_bytes(good)
    shutil.rmtree(t.refused(command).typed("remove (.+) to ingest"))
    t.works(command)


@fixes("data/arguments.py", "{}: is for files")
def _(t: Terminal) -> None:
    axes = {"sampling_rate": 100, "leads": CANONICAL_LEADS, "unit": "mV", "layout": LAYOUT[9:]}
    source = ArraySource(t.at.npy, **axes)
    error = t.refused(lambda: ingest(source, t.new(), unit="mV"))
    assert error.typed("leave it out")
    t.works(lambda: ingest(source, t.new(), quiet=True))


# Clusters -------------------------------------------------------------------------------------


@fixes("data/ingest.py", "--workers {}: is of this machine")
@fixes("data/arguments.py", "{}: is an archive, which --cluster")
@fixes("data/cluster.py", "--cluster {}: does not answer")
def _(t: Terminal) -> None:
    command = f"ingest {WFDB} --out {t.new()} --fs 100"
    with ray_of_threads():
        if "leave one out" in t.messages[0].text:
            flag = t.refused(f"{command} --workers 2 --cluster local").typed("and (--cluster)")
            t.works(f"{command} {flag} local")
        elif "archive" in t.messages[0].text:
            archive = shutil.make_archive(str(t.new("a")), "zip", WFDB)
            error = t.refused(f"ingest {archive} --out {t.new()} --fs 100 --cluster local")
            assert error.typed("unpack it")
            t.works(f"{command} --cluster local")
        else:
            error = t.refused(f"{command} --cluster auto")
            t.works(f"{command} --cluster {error.typed(r'local')}")
