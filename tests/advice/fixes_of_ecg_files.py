"""What errors about files of one ECG say to type."""

from __future__ import annotations

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


@fixes("cli/data.py", "--summary {}: is of a store")
def _(t: Terminal) -> None:
    command = f"inspect {WFDB / 'records100' / '00000' / '00001_lr.hea'} "
    t.refused(f"{command} --summary {t.new('s.md')}").typed("(--summary) .*leave it out")
    t.works(command)


@fixes("report/store_summary.py", "--summary {}: is neither")
def _(t: Terminal) -> None:
    command = f"inspect {t.at.store} "
    flag = t.refused(f"{command} --summary {t.new('s.txt')}").typed("write (--summary .*)")
    t.works(command + flag.replace("summary.html", str(t.new("summary.html"))))


@fixes("signals/readers/listed_files.py", "{}: '**' stands for")
def _(t: Terminal) -> None:
    command = f"ingest {{}} --out {t.new()} --fs 100"
    pattern = t.refused(command.format(WFDB / "records100" / "**.hea")).typed("write '(.*)'")
    t.works(command.format(pattern))


@fixes("signals/readers/datasets/code15.py", "{}: is {}, which states its unit")
def _(t: Terminal) -> None:
    pytest.importorskip("h5py")
    (folder := t.new("code15")).mkdir()
    recordings = [synthetic_recording(50 + n, 400, 3, seed=n) for n in range(4)]
    write_hdf5(folder / "exams_part0.hdf5", recordings)
    rows = [f"{700 + n},{n},exams_part0.hdf5\n" for n in range(4)]
    (folder / "exams.csv").write_text("exam_id,patient_id,trace_file\n" + "".join(rows))
    command = f"ingest {folder} --out {t.new()} "
    t.works(command + t.refused(command).typed("give (--unit mV)"))


@fixes("cli/data.py", "--sampling-rate, --unit: are for one")
def _(t: Terminal) -> None:
    command = f"inspect {t.at.store} "
    t.refused(command + "--unit mV").typed("--unit: .*leave them out")
    t.works(command)
