"""What errors of stores, and of arrays in memory, say to type."""

from __future__ import annotations

import json
import shutil
from unittest.mock import patch

import numpy as np
from fixes_of_ingest import recordings
from terminal import AXES, Terminal, fixes

from latentcast.data.arrays import write_store
from latentcast.data.store import Store
from latentcast.files import digested, inside

# The store ------------------------------------------------------------------------------------


@fixes("data/manifest.py", "{}: does not exist")
def _(t: Terminal) -> None:
    typed = t.refused(f"inspect {t.new()}").typed("latentcast (ingest SOURCE --out .+)")
    t.works(f"{typed.replace('SOURCE', str(t.at.npy))} {AXES}")
    t.works(f"inspect {t.new()}")


@fixes("data/manifest.py", "{}: is damaged")
@fixes("data/manifest.py", "{}: cannot be read ({}); re")
def _(t: Terminal) -> None:
    t.works(recordings(t))
    shard = t.new() / "shard-00000.npy"
    if "damaged" in t.messages[0].text:
        shard.write_bytes(shard.read_bytes()[:-2] + b"##")
        error = t.refused(f"inspect {t.new()}")
    else:
        with patch("latentcast.data.manifest.file_digest", side_effect=OSError("bad sector")):
            error = t.refused(Store.open(t.new()).verify)
    shutil.rmtree(error.typed("remove (.+) and ingest again"))
    t.works(recordings(t))
    t.works(f"inspect {t.new()}")


@fixes("data/store.py", "{}: cannot be read")
@fixes("data/store.py", "{}: holds {} {}, the manifest")
@fixes("data/manifest.py", "{}: {}: {}; this version")
@fixes("data/manifest.py", "{}: cannot be used")
def _(t: Terminal) -> None:
    t.works(recordings(t))
    text, manifest = t.messages[0].text, t.new() / "manifest.json"
    if "this version" in text:
        manifest.write_text("{}")
    elif "cannot be used" in text:
        manifest.write_text("{")
    elif "holds" in text:
        record = json.loads(manifest.read_text().replace('"samples": 10000', '"samples": 9999'))
        manifest.write_text(json.dumps(digested(record)))
    else:
        (t.new() / "shard-00000.npy").write_bytes(b"")
    shutil.rmtree(t.refused(f"inspect {t.new()}").typed("remove (.+) and ingest again"))
    t.works(recordings(t))
    t.works(f"inspect {t.new()}")


@fixes("files.py", "{}: a file name in it")
def _(t: Terminal) -> None:
    t.new("in").mkdir()
    (t.folder / "a.npy").write_bytes(b"")
    assert t.refused(lambda: inside(t.new("in"), "../a.npy")).typed("put the file inside")
    shutil.move(t.folder / "a.npy", t.new("in"))
    t.works(lambda: inside(t.new("in"), "a.npy"))


@fixes("data/store.py", "{}: holds no record")
def _(t: Terminal) -> None:
    command = f"inspect {t.at.store} --plot {t.new('a.png')} --record "
    t.works(command + t.refused(command + "nobody").typed("look like '(.+)'"))


@fixes("data/store.py", "split '{}'")
def _(t: Terminal) -> None:
    store = Store.open(t.at.store)
    split = t.refused(lambda: store.rows("tran")).typed("mean '(.+)'")
    t.works(lambda: store.rows(split))


@fixes("data/store.py", "{}: is a store of")
def _(t: Terminal) -> None:
    assert t.refused(lambda: Store.open(t.at.grey).recording(0)).typed("name one of (recordings)")
    t.works(lambda: Store.open(t.at.bare).recording(0))


@fixes("data/store.py", "{}: holds pixels")
def _(t: Terminal) -> None:
    flag = t.refused(lambda: Store.open(t.at.coloured).encoded(0)).typed("--encoding encoded")
    t.works(f"ingest {t.at.images} --out {t.new()} {flag}")
    t.works(lambda: Store.open(t.new()).encoded(0))


@fixes("data/store.py", "{}: image {} {}")
def _(t: Terminal) -> None:
    t.works(f"ingest {t.at.images} --out {t.new()} --encoding encoded")
    shard = next(t.new().glob("shard-*"))
    store = Store.open(t.new())
    shard.write_bytes(shard.read_bytes()[:200] + bytes(shard.stat().st_size - 200))
    verb = t.refused(lambda: Store.open(t.new()).take(np.arange(len(store)))).typed(
        "latentcast inspect"
    )
    assert f"{shard}: is damaged" in t.attempt(f"{verb.split()[1]} {t.new()}")
    t.works(lambda: None)


@fixes("data/labels.py", "label '{}'")
def _(t: Terminal) -> None:
    labels = Store.open(t.at.store).labels
    code = t.refused(lambda: labels.indicator(["NOMR"])).typed("mean '(.+)'")
    t.works(lambda: labels.indicator([code]))


# Arrays in memory -----------------------------------------------------------------------------


@fixes("data/arrays.py", "signals: need their")
def _(t: Terminal) -> None:
    signals = np.random.default_rng(0).normal(0, 0.3, (9, 3, 5000))
    code = t.refused(lambda: write_store(t.new(), signals=signals)).typed("sampling_rate=.*")
    t.works(lambda: write_store(t.new(), signals=signals, quiet=True, **eval(f"dict({code})")))


@fixes("data/arrays.py", "signals[{}]: has shape")
def _(t: Terminal) -> None:
    signals = np.random.default_rng(0).normal(0, 0.3, (9, 1000, 2))
    about = {"sampling_rate": 100, "leads": ["I", "II"], "quiet": True}
    assert t.refused(lambda: write_store(t.new(), signals=signals, **about)).typed("transpose it")
    t.works(lambda: write_store(t.new(), signals=signals.swapaxes(1, 2), **about))


@fixes("data/arrays.py", "splits: '{}'")
def _(t: Terminal) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 1), np.uint8)

    def write(name: str) -> None:
        write_store(t.new(), images=images, splits=[name] * 4, quiet=True)

    split = t.refused(lambda: write("trian")).typed("mean '(.+)'")
    t.works(lambda: write(split))
