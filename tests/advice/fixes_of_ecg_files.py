"""What errors about files of one ECG say to type."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from terminal import WFDB, Terminal, fixes

from dev.fuzz.ecg_files import write_hdf5, write_lead_table
from latentcast.signals.readers import read_recording
from latentcast.signals.synthetic import synthetic_ecg, synthetic_recording


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


@fixes("cli/data.py", "--flags {}: is of a store")
def _(t: Terminal) -> None:
    command = f"inspect {WFDB / 'records100' / '00000' / '00001_lr.hea'} "
    t.refused(command + f"--flags {t.new('f.csv')}").typed("(--flags .+f.csv): .*leave it out")
    t.works(command)


@fixes("data/inspect.py", "{} records, evenly spread")
def _(t: Terminal) -> None:
    with patch("latentcast.data.inspect.LOOKED_AT", 3):
        flag = t.prints(f"inspect {t.at.bare}").typed("--flags")
        t.works(f"inspect {t.at.bare} {flag} {t.new('flags.csv')}")


@fixes("signals/synthetic.py", "{} '{}': is unknown")
def _(t: Terminal) -> None:
    kind = t.refused(lambda: synthetic_ecg(noise={"mucle": 0.1})).typed("did you mean '(.*)'")
    t.works(lambda: synthetic_ecg(noise={kind: 0.1}))


@fixes("cli/data.py", "--sampling-rate, --unit: are for one")
def _(t: Terminal) -> None:
    command = f"inspect {t.at.store} "
    t.refused(command + "--unit mV").typed("--unit: .*leave them out")
    t.works(command)
