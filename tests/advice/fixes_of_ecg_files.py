"""What errors about files of one ECG say to type."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from terminal import WFDB, Terminal, fixes

from dev.fuzz.ecg_files import write_hdf5, write_lead_table
from latentcast.signals.readers import read_recording
from latentcast.signals.synthetic import synthetic_recording


def table(t: Terminal, unit: str = " (uV)") -> Path:
    write_lead_table(file := t.new("a.csv"), synthetic_recording(60, 100, 3))
    file.write_text(file.read_text().replace(" (uV)", unit))
    return file


@fixes("signals/readers/lead_table.py", "is a table of leads, which has no sampling rate; give --")
def _(t: Terminal) -> None:
    command = f"inspect {table(t)} "
    t.works(command + t.refused(command).typed("example (--sampling-rate 500)"))


@fixes("signals/readers/lead_table.py", "is a table of leads, which has no sampling rate; give s")
def _(t: Terminal) -> None:
    file = table(t)
    rate = t.refused(lambda: read_recording(file)).typed(r"sampling_rate=(\d+)")
    t.works(lambda: read_recording(file, sampling_rate=float(rate)))


@fixes("signals/readers/lead_table.py", "is a table of leads, which has no unit of {}; give --")
def _(t: Terminal) -> None:
    command = f"inspect {table(t, '')} --sampling-rate 100 "
    t.works(command + t.refused(command).typed("give (--unit mV)"))


@fixes("signals/readers/lead_table.py", "is a table of leads, which has no unit of {}; give unit")
def _(t: Terminal) -> None:
    file = table(t, "")
    unit = t.refused(lambda: read_recording(file, sampling_rate=100)).typed("unit='(mV)'")
    t.works(lambda: read_recording(file, sampling_rate=100, unit=unit))


@fixes("signals/readers/hdf5.py", "{}: an HDF5 file does not name")
def _(t: Terminal) -> None:
    pytest.importorskip("h5py")
    recordings = [synthetic_recording(50 + n, 400, 3, seed=n) for n in range(4)]
    write_hdf5(file := t.new("a.h5"), recordings)
    command = f"ingest {file} --out {t.new()} "
    flags = t.refused(command).typed("example (--sampling.*)")
    t.works(command + flags.replace("I,II,III", ",".join(recordings[0].leads)))


@fixes("cli/data.py", "--record {}: is of a store")
def _(t: Terminal) -> None:
    command = f"inspect {WFDB / 'records100' / '00000' / '00001_lr.hea'} "
    t.refused(command + "--record 7").typed("(--record 7): .*leave it out")
    t.works(command)


@fixes("cli/data.py", "--sampling-rate, --unit: are for one")
def _(t: Terminal) -> None:
    command = f"inspect {t.at.store} "
    t.refused(command + "--unit mV").typed("--unit: .*leave them out")
    t.works(command)


# Converting -----------------------------------------------------------------------------------

HEADER = WFDB / "records100" / "00000" / "00001_lr.hea"


@fixes("cli/data.py", "--against {}: is compared")
def _(t: Terminal) -> None:
    command = f"inspect {HEADER} "
    t.refused(f"{command}--against {t.at.store}").typed("leave (--against) out")
    t.works(command)


@fixes("cli/data.py", "latentcast convert: names no file")
def _(t: Terminal) -> None:
    t.refused(f"convert --to csv --out {t.new()}").typed("name (files)")
    t.works(f"convert {HEADER} --to csv --out {t.new()}")


@fixes("cli/data.py", "needs a key; add --key", "is for --anonymize; leave")
def _(t: Terminal) -> None:
    command = f"convert {HEADER} --to csv --out {t.new()} "
    t.refused(f"{command} --key {t.new('k')}").typed("leave it out")
    flag = t.refused(f"{command} --anonymize").typed("add (--key) FILE")
    t.works(f"{command} --anonymize {flag} {t.new('k')}")


@fixes(
    "signals/anonymize.py",
    "--key {}: cannot be read",
    "--key {}: holds {}",
    "--key {}: cannot be written",
)
def _(t: Terminal) -> None:
    command = f"convert {HEADER} --to csv --out {t.new()} --anonymize --key "
    t.new("short").write_text("abc")
    t.refused(command + str(t.new("short"))).typed("file that does not exist yet")
    t.refused(command + str(t.new("none") / "k")).typed("a folder that exists")
    t.refused(command + str(t.folder)).typed("name a file")
    t.works(command + str(t.new("key")))


@fixes("signals/writers/edf.py", "lead {} has {} samples", "{} samples at {} Hz fill")
def _(t: Terminal) -> None:
    command = f"convert {table(t)} --out {t.new()} --sampling-rate "
    kind = t.refused(f"{command} 360 --to edf").typed("--to (wfdb)")
    shutil.rmtree(t.new())
    rows = t.new("a.csv").read_text().splitlines()
    rows[-1] = re.sub(r"[^,;\t]+$", "nan", rows[-1])
    t.new("a.csv").write_text("\n".join(rows))
    t.refused(f"{command} 100 --to edf").typed("--to (wfdb)")
    shutil.rmtree(t.new())
    t.works(f"{command} 100 --to {kind}")


@fixes("workflows/convert.py", "{}: is not empty")
def _(t: Terminal) -> None:
    command = f"convert {HEADER} --to csv --out "
    t.works(command + str(t.new()))
    t.refused(command + str(t.new())).typed("another --out")
    t.works(command + str(t.new("other")))


@fixes("workflows/convert.py", "--leads: are the channels")
def _(t: Terminal) -> None:
    command = f"convert {HEADER.parent} --to csv --out "
    t.refused(f"{command}{t.new()} --leads I").typed("leave it out")
    t.works(command + str(t.new("other")))
