"""What errors of converted and anonymous recordings say to type."""

from __future__ import annotations

import re
import shutil

from fixes_of_ecg_files import table
from terminal import WFDB, Terminal, fixes

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
