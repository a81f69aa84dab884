"""What errors about files of one ECG say to type."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from terminal import WFDB, Terminal, fixes

from dev.fuzz.ecg_files import write_hdf5, write_lead_table
from latentcast.artifacts.encoder import Encoder
from latentcast.data.arrays import write_store
from latentcast.data.formats import open_source
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


@fixes("cli/data.py", "--sampling-rate, --unit, --rename: are for one")
def _(t: Terminal) -> None:
    command = f"inspect {t.at.store} "
    t.refused(command + "--unit mV").typed("--unit, --rename: .*leave them out")
    t.works(command)


MISSPELLED = ("I", "II", "III", "AVR", "AVL", "AVF", "V11")


def ward(t: Terminal, *names: str) -> Path:
    """A folder of a WFDB record whose first leads have other names."""
    (folder := t.new("ward")).mkdir()
    for file in (WFDB / "records100" / "00000").glob("00001_lr.*"):
        shutil.copy(file, folder / f"a{file.suffix}")
    first, *lines = (folder / "a.hea").read_text().replace("00001_lr", "a").splitlines()
    for place, name in enumerate(names):
        lines[place] = f"{lines[place].rpartition(' ')[0]} {name}"
    (folder / "a.hea").write_text("\n".join([first, *lines]))
    return folder


@fixes("signals/readers/file_format.py", "{}; name those that are, such as --rename")
def _(t: Terminal) -> None:
    command = f"inspect {ward(t, *(f'ECG{n}' for n in range(12))) / 'a.hea'} "
    t.works(command + t.refused(command).typed("such as (--rename ECG0=II)"))


@fixes("signals/readers/file_format.py", "{}; name those that are, such as rename")
def _(t: Terminal) -> None:
    file = ward(t, *(f"ECG{n}" for n in range(12))) / "a.hea"
    pairs = ast.literal_eval(t.refused(lambda: read_recording(file)).typed(r"rename=({.*})"))
    t.works(lambda: read_recording(file, rename=pairs))


@fixes("signals/recording.py", "{}; if {} is {}, read it with --rename")
def _(t: Terminal) -> None:
    command = f"ingest {ward(t, *MISSPELLED)} --workers 1 --out {t.new()} "
    t.works(command + t.refused(command).typed("with (--rename V11=V1)"))


@fixes("signals/recording.py", "{}; if {} is {}, read it with rename")
def _(t: Terminal) -> None:
    folder, encoder = ward(t, *MISSPELLED), Encoder.from_pretrained(t.at.run)
    error = t.refused(lambda: encoder.embed(folder / "a.hea"))
    pairs = ast.literal_eval(error.typed(r"rename=({.*})"))
    t.works(lambda: encoder.embed(folder / "a.hea", rename=pairs))


@fixes("signals/leads.py", "--rename {}: write")
def _(t: Terminal) -> None:
    command = f"inspect {ward(t, 'ECG1') / 'a.hea'} --rename "
    example = t.refused(command + "II").typed("example (.*)$")
    t.works(command + example)


@fixes("data/codecs/counts.py", "--rename: is for ECG leads")
def _(t: Terminal) -> None:
    command = f"ingest {ward(t, 'Fp1')} --workers 1 --out {t.new()} --signal other --leads Fp1 "
    t.refused(command + "--rename Fp1=II").typed("--rename: .*leave it out")
    t.works(command)


@fixes("signals/readers/ecg_files.py", "is an HDF5 file of many")
def _(t: Terminal) -> None:
    pytest.importorskip("h5py")
    folder, recordings = ward(t), [synthetic_recording(50 + n, 100, 3, seed=n) for n in range(4)]
    write_hdf5(folder / "many.h5", recordings)
    (ref,) = (ref for ref in open_source(folder).refs() if ref.problem)
    t.holding(str(ref.problem)).typed("--sampling-rate, --leads, --unit and --layout")
    t.works(
        f"ingest {folder / 'many.h5'} --out {t.new()} --sampling-rate 100 --unit mV --layout "
        f"records,samples,leads --leads {','.join(recordings[0].leads)}"
    )


@fixes("signals/counts.py", "holds {} counts of")
def _(t: Terminal) -> None:
    counts = np.stack([synthetic_recording(50 + n, 100, 3).signal for n in range(4)]) * 1000
    counts[:, 3, 7] = -32768
    about = {"sampling_rate": 100, "leads": synthetic_recording().leads, "unit": "uV"}
    t.refused(lambda: write_store(t.new("a"), signals=counts, **about)).typed("write NaN there")
    counts[counts == -32768] = np.nan
    t.works(lambda: write_store(t.new("b"), signals=counts, **about))
