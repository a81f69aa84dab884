"""What errors of tables of embeddings, and of what is nearest in them, say to type."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from terminal import Terminal, fixes, full_disk

from latentcast.artifacts.encoder import Encoder
from latentcast.locks import locked
from latentcast.serving.model import Served


@fixes("artifacts/embeddings.py", "{}: embeddings are written")
@fixes("workflows/similar.py", "{}: neighbours are written")
def _(t: Terminal) -> None:
    command = f"embed {t.at.run} {t.at.bare} --out "
    if "neighbours" in t.messages[0].text:
        command = f"similar {t.at.run} {t.at.bare} --in {t.at.bare} --out "
    name = t.refused(command + str(t.new("a.txt"))).typed(r"name it (\S+)")
    t.works(command + str(t.new(name)))


@fixes("artifacts/embeddings.py", "{}: is no table of")
@fixes("serving/neighbours.py", "{}: is neither")
def _(t: Terminal) -> None:
    index = t.new("index.npz" if "no table" in t.messages[0].text else "index.txt")
    index.write_text("nothing")
    served, table = Served(t.at.run), t.new("table.npz")
    verb = t.refused(lambda: served.search(index)).typed(r"latentcast (embed)")
    t.works(f"{verb} {t.at.run} {t.at.bare} --out {table}")
    t.works(lambda: served.search(table))
    t.works(lambda: served.search(t.at.bare))


@fixes("workflows/embed.py", "--level {}: is a layer")
@fixes("workflows/embed.py", "--level {}: does not exist")
def _(t: Terminal) -> None:
    command = f"embed {t.at.hierarchy} {t.at.digits} --out {t.new('a.npz')}"
    if "leave one out" in t.messages[0].text:
        assert t.refused(f"{command} --level 1 --layer norm").typed("leave one out")
        t.works(f"{command} --level 1")
        t.works(f"{command} --layer norm")
        return
    error = t.refused(f"{command} --level 9")
    name = error.typed("'.+'")
    t.works(f"{command} {error.typed('--layer')} {name}")


@fixes("workflows/embed.py", "{}: is being written")
def _(t: Terminal) -> None:
    out = t.new("a.csv")
    with locked(out.with_name(".a.csv.lock")):
        assert t.refused(f"embed {t.at.run} {t.at.bare} --out {out}").typed("name another file")
        t.works(f"embed {t.at.run} {t.at.bare} --out {t.new('b.csv')}")


@fixes("workflows/embed_parts.py", "{}: cannot be written ({}); free")
@fixes("workflows/embed_parts.py", "{}: cannot be read ({}); remove")
def _(t: Terminal) -> None:
    command = f"embed {t.at.run} {t.at.bare} --out {t.new('a.csv')}"
    if "free space" in t.messages[0].text:
        with full_disk(1000):
            assert t.refused(command).typed("give the same command")
    else:
        writing = "latentcast.workflows.embed_parts.write_embeddings"
        with patch(writing, side_effect=KeyboardInterrupt):
            t.attempt(command)
        (part,) = t.new("a.csv.parts").glob("*.npz")
        part.write_bytes(part.read_bytes()[:100])
        Path(t.refused(command).typed(r"(\S+): cannot be read")).unlink()
    t.works(command)


@fixes("workflows/similar.py", "{}: was embedded with")
def _(t: Terminal) -> None:
    table = t.new("a.npz")
    t.works(f"embed {t.at.run} {t.at.bare} --pooling std --out {table}")
    command = f"similar {t.at.run} {t.at.bare} --in {table}"
    error = t.refused(command)
    t.works(f"{command} {error.typed('--pooling')} {error.typed(r'with pooling (.+), not')}")
    t.works(f"{error.typed('latentcast (embed)')} {t.at.run} {t.at.bare} --out {table}")
    t.works(command)


@fixes("pretrained/models.py", "{}: has no checkpoints")
@fixes("pretrained/models.py", "{}: has no checkpoint of")
def _(t: Terminal) -> None:
    model, rest = t.at.run, f"{t.at.bare} --out {t.new('a.npz')}"
    if "leave out" in t.messages[0].text:
        model = t.new("model")
        Encoder.from_pretrained(t.at.run).save_pretrained(model)
        command = f"embed {model}@77 {rest}"
        t.works(command.replace(t.refused(command).typed("leave out (@77)"), ""))
    else:
        t.works(f"embed {t.refused(f'embed {model}@77 {rest}').typed(r'write (.+)')} {rest}")
