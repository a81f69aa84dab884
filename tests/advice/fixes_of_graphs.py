"""What errors of graphs for other runtimes say to type."""

from __future__ import annotations

from unittest.mock import patch

from fixes_of_labels import tuning
from terminal import ECG, Terminal, fixes, train

from latentcast.artifacts.encoder import Encoder
from latentcast.artifacts.graph.export import export_graph
from latentcast.artifacts.graph.session import Graph


@fixes("artifacts/graph/export.py", "{}: graphs are")
@fixes("cli/evaluation.py", "{}: --layer, --pooling")
def _(t: Terminal) -> None:
    if "are of graphs" not in t.messages[0].text:
        error = t.refused(lambda: export_graph(t.at.run, t.new("a.bin")))
        t.works(lambda: export_graph(t.at.run, t.new(error.typed(r"name it (\S+)"))))
        return
    command = f"export {t.at.run} --pooling std --out "
    name = t.refused(command + str(t.new("a.safetensors"))).typed(r"name (\S+),")
    t.works(command + str(t.new(name)))


@fixes("artifacts/graph/export.py", "{}: a graph does not hold")
def _(t: Terminal) -> None:
    t.works(f"{train(t, ECG, t.at.bare)} --set input.filters=[{{kind:baseline}}]".replace(
        "kind:", "kind:\\ "))  # fmt: skip
    command = f"export {t.new('run')} --out "
    name = t.refused(command + str(t.new("a.onnx"))).typed(r"--out (\S+),")
    t.works(command + str(t.new(name)))


@fixes("artifacts/graph/export.py", "{}: was fine-tuned and")
def _(t: Terminal) -> None:
    t.works(tuning(t, t.at.probed, "--task labels"))
    command = f"export {t.new('tuned')} --out {t.new('a.pt2')}"
    assert t.refused(f"{command} --layer norm").typed("leave out (--layer)")
    t.works(command)


@fixes("artifacts/graph/export.py", "{}: 8 bits are for")
@fixes("artifacts/graph/export.py", "in 8 bits an output is")
def _(t: Terminal) -> None:
    command = f"export {t.at.run} --int8 --out "
    if "for .onnx" in t.messages[0].text:
        name = t.refused(command + str(t.new("a.pt2"))).typed(r"name it (\S+)")
        t.works(command + str(t.new(name)))
        return
    with patch("latentcast.artifacts.graph.export.least_cosine", return_value=0.5):
        flag = t.refused(command + str(t.new("a.onnx"))).typed(r"leave out (--\S+)")
    t.works((command + str(t.new("a.onnx"))).replace(flag, ""))


@fixes("artifacts/graph/int8.py", "8 bits for convolutions need")
def _(t: Terminal) -> None:
    sizes = "encoder.width=24 encoder.stem_width=6 train.batch_size=4"
    t.works(f"train conv-ecg-tiny --data {t.at.bare} --out {t.new()} --set {sizes} "
            "train.steps=1 optimizer.warmup_steps=0")  # fmt: skip
    flag = "--data"
    with patch("latentcast.runs.new.data_of", return_value=None):
        flag = t.refused(f"export {t.new()} --int8 --out {t.new('a.onnx')}").typed("--data")
    t.works(f"export {t.new()} --int8 --out {t.new('a.onnx')} {flag} {t.at.bare}")


@fixes("artifacts/graph/export.py", "the network has no ONNX form")
@fixes("artifacts/graph/export.py", "the network cannot be made a graph")
def _(t: Terminal) -> None:
    # The Fourier transform of a state space has no ONNX form.
    sizes = "width=24 depth=2 state=4 stem_width=6 patch=20"
    keys = " ".join(f"encoder.{size}" for size in ("kind=s4d", *sizes.split()))
    t.works(f"train {ECG} --data {t.at.bare} --out {t.new()} --set {keys} input.length=400 "
            "train.steps=1 optimizer.warmup_steps=0")  # fmt: skip
    name = "_onnx" if "ONNX" in t.messages[0].text else "_traced"
    of_torch = "torch.onnx.export" if name == "_onnx" else "torch.export.export"
    with patch(of_torch, side_effect=RuntimeError("aten.fft_irfft")):
        error = t.refused(f"export {t.new()} --out {t.new('a.onnx')}")
    if name == "_onnx":
        suffix = error.typed(r"write a (\.\w+) file")
        t.works(f"export {t.new()} --out {t.new('a' + suffix)}")
    else:
        assert error.typed(r"Encoder\.from_pretrained")
        t.works(lambda: Encoder.from_pretrained(t.new()))


@fixes("artifacts/graph/session.py", "{}: was not written by")
def _(t: Terminal) -> None:
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:]
    )
    save(helper.make_model(graph, ir_version=8), t.new("a.onnx"))
    assert t.refused(lambda: Graph(t.new("a.onnx"))).typed("write it again")
    t.works(f"export {t.at.run} --out {t.new('a.onnx')}")
    t.works(lambda: Graph(t.new("a.onnx")))
