"""The command line as a user meets it: fast help, errors with a mend and no traceback."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import WFDB, Command
from latentcast import cli
from latentcast.cli.arguments import Flags

PARITY = Path(__file__).parents[1] / "parity" / "nepa_ecg.safetensors"


def test_help_does_not_wait_for_torch() -> None:
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "latentcast", "--help"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "latentcast.cli" in imported and not {"torch", "numpy"} & imported
    for verb in ("ingest", "inspect", "recipes", "train", "probe", "report", "verify"):
        assert verb in answer.stdout


def test_importing_needs_no_optional_package() -> None:
    """design.md law 8: torchvision, timm and transformers are on no path; extras are lazy."""
    code = (
        "import sys; from latentcast import Encoder;"
        "slow = {'torch._dynamo', 'torch.distributed.tensor', 'sympy', 'rich'} & set(sys.modules);"
        "from latentcast import Store, recipe, ingest, train;"
        "extra = {'torchvision', 'timm', 'transformers', 'sklearn', 'matplotlib', 'wfdb', 'scipy',"
        "'pydicom', 'h5py', 'PIL'} & set(sys.modules);"
        "sys.exit(', '.join(slow | extra) or 0)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_the_version_is_that_of_the_package(command: Command) -> None:
    assert command("--version").out == f"latentcast {metadata.version('latentcast')}\n"


LISTS = [(verb, flag) for verb in cli.VERBS for flag in sorted(Flags.of(cli.VERBS[verb]).lists)]


@pytest.mark.parametrize(("verb", "flag"), LISTS)
def test_a_repeated_list_flag_drops_no_value(
    command: Command, monkeypatch: pytest.MonkeyPatch, verb: str, flag: str
) -> None:
    """``--set a=1 --set b=2`` trained with b alone."""
    received: dict[str, Any] = {}
    monkeypatch.setitem(
        cli.VERBS,
        verb,
        functools.wraps(cli.VERBS[verb])(lambda *_, **values: received.update(values)),
    )
    first, between = list[str](), list[str]()
    for name, parameter in inspect.signature(cli.VERBS[verb]).parameters.items():
        if parameter.default is parameter.empty:
            typed = f"--{name}" in Flags.of(cli.VERBS[verb]).parameters
            first, between = (first, [*between, f"--{name}=x"]) if typed else (["x"], between)
    name = flag.strip("-").replace("-", "_")
    kind = str(inspect.signature(cli.VERBS[verb]).parameters[name].annotation)
    a, b, c, d = "1234" if "int" in kind or "float" in kind else ("a=1", "b=2", "c=3", "d")
    answer = command(verb, *first, flag, a, b, *between, f"{flag}={c}", flag, d)
    assert answer.status == 0, answer
    assert [str(value).removesuffix(".0") for value in received[name]] == [a, b, c, d]


def test_recipes_are_listed_and_printed(command: Command) -> None:
    assert "nepa-ecg-small" in command("recipes").out
    assert "warmup_steps: 10000" in command("recipes", "nepa-ecg-small").out


def test_verify_prints_differences_and_exits_zero_only_when_all_agree(
    command: Command, tmp_path: Path
) -> None:
    good = command("verify", "--parity", PARITY)
    assert good.status == 0 and "62 of 62 quantities agree" in good.out
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(PARITY, "pt") as stream:
        metadata = stream.metadata()
    tensors = load_file(PARITY)
    tensors["output.loss"] += 1e-3
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    bad = command("verify", "--parity", PARITY, tmp_path / "bad.safetensors")
    assert bad.status == 1
    assert "DIFFERS" in bad.out and "61 of 62 quantities agree" in bad.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "nepa-ecg-smal", "--data", "x", "--out", "y"), "did you mean 'nepa-ecg-small'"),
        (("train", "nepa-ecg-tiny", "--data", "nowhere", "--out", "y"), "nowhere"),
        (("train", "--data", "x", "--out", "y"), "needs a recipe or --config"),
        (("train", "nepa-ecg-tiny", "--data", "x", "--out", "y", "--set", "train.step=3"),
         "did you mean 'steps'"),
        (("train", "nepa-ecg-tiny", "--config", "gone.yaml", "--data", "x", "--out", "y"),
         "gone.yaml: does not exist"),
        (("probe", "nowhere", "--data", "x"), "nowhere"),
        (("report", "nowhere", "--data", "x"), "nowhere"),
        (("inspect", "nowhere"), "nowhere"),
        (("ingest", "nowhere", "--out", "y"), "nowhere: does not exist"),
        (("verify", "--parity"), "nothing to compare"),
        (("trian", "nepa-ecg-tiny"), "did you mean 'train'"),
        (("train", "nepa-ecg-tiny", "--dta", "x"), "did you mean '--data'"),
        (("probe", "x", "--out", "y"), "probe; known: --"),
        (("probe", "x", "--data", "y", "--data", "z"), "--data: is there twice"),
        (("train", "nepa-ecg-tiny", "--data", "x", "--out", "y", "--set", "train.steps=60",
          "--set", "train.steps=70"), "train.steps: is set twice, to 60 and to 70"),
        (("bench", "nepa-ecg-tiny", "--what", "step", "--what", "stp"), "stp"),
        (("verify", "--parity", "nowhere.safetensors"), "nowhere.safetensors: cannot be read"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_that_names_the_thing(
    command: Command, arguments: tuple[str, ...], words: str
) -> None:
    answer = command(*arguments)
    assert answer.status == 2 and words in answer.err
    assert answer.err.startswith("latentcast: ") and answer.err.count("\n") == 1


ONE = "records100/00000/00001_lr"
NAMELESS = "--sampling-rate 100 --unit mV --layout records,leads,samples --leads I,II"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("inspect {wfdb}", "make one with latentcast ingest {wfdb} --out STORE"),
        ("train nepa-ecg-tiny --data {wfdb} --out y", "latentcast ingest {wfdb} --out STORE"),
        ("inspect nowhere", "nowhere: does not exist; make a store"),
        ("inspect {wfdb}/SHA256SUMS.txt", "is of no format read here"),
        ("ingest {wfdb}/{one}.dat --out y", "is a single record"),
        ("ingest {store} --out y", "is already a store; name the source"),
        ("ingest {wfdb}/{one} --out y", "is a single record; name its folder, {wfdb}/records100/"),
        ("ingest {wfdb}/{one}.hea --out y", "is a single record"),
        ("ingest {wfdb} --fs 500 --out {store}", "another store (fs 100 there, 500 here);"),
        ("ingest {wfdb}/records100 --out {store}", "fs 100 there, not set here);"),
        ("ingest {npy} --metadata nix.csv --out y {axes}", "nix.csv: does not exist; name"),
        ("probe {run}/checkpoints", "checkpoints of a run; name the run, {run}\n"),
        ("probe {run} --layer block9", "known: all, embedding, block 1, block 2, norm"),
        ("probe {run} --device gpu", "device gpu: cannot be used (it is no name of a device)"),
        ("export nix --out y.safetensors", "nix: does not exist; name the folder of a run"),
        ("report {store}", "is a store; name the folder of a run"),
        ("train {store}", "name a recipe (latentcast recipes) and give the store as --data"),
        ("train nowhere/run", "nowhere/run: does not exist; name a recipe"),
        ("train big --data x --out y", "big: is no recipe; they are nepa-ecg-tiny, "),
        ("train {run} --steps 5", "has done 12 steps, train.steps is 5"),
        ("masks ijepa-ecg-tiny --set steps=20", "steps: is a part of a key; did you mean 'train.s"),
        ("version", "did you mean '--version'"),
        ("help", "did you mean '--help'"),
    ],
)  # fmt: skip
def test_a_path_or_word_of_another_kind_is_called_by_a_wrong_name(
    command: Command, small_store: Path, small_run: Path, tmp_path: Path, line: str, words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """``make one with latentcast ingest SOURCE --out my-ecgs``, of the folder of the ECGs."""
    monkeypatch.chdir(tmp_path)
    np.save("two.npy", np.random.default_rng(0).normal(0, 0.3, (2, 2, 1000)))
    Path("x.safetensors").touch()
    place = {"wfdb": WFDB, "store": small_store, "run": small_run, "one": ONE}
    place |= {"npy": "two.npy", "axes": NAMELESS}
    answer = command(*line.format(**place).split())
    assert answer.status == 2 and words.format(**place) in answer.err
    assert "None" not in answer.err and "fingerprint" not in answer.err


@pytest.mark.parametrize("verb", ["ingest", "train", "probe"])
def test_ctrl_c_says_nothing(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verb: str
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    # What each does first with a path.
    monkeypatch.setattr("latentcast.data.ingest.apart", interrupt)
    monkeypatch.setattr("latentcast.workflows.train.apart", interrupt)
    monkeypatch.setattr("latentcast.artifacts.encoder.read_weights", interrupt)
    first = {"ingest": ("x", "--out", "y"), "probe": ("x",)}
    answer = command(verb, *first.get(verb, ("nepa-ecg-tiny", "--data", "x", "--out", "y")))
    again = "; the same command goes on" * (verb != "probe")
    assert answer == (130, "", f"latentcast: stopped{again}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "{}", "--out"),
        ("train", "nepa-ecg-tiny", "--data", "{}", "--out"),
        ("train", "nepa-ecg-tiny", "--data", "x", "--init", "{}", "--out"),
        ("export", "{}", "--out"),
        ("bench", "nepa-ecg-tiny", "--data", "{}", "--out"),
        ("verify", "nepa-ecg-tiny", "--parity", "{}", "--out"),
        ("inspect", "{}", "--plot"),
    ],
)
@pytest.mark.parametrize("inside", ["", "/new.png"])
def test_nothing_is_written_into_what_is_read(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], inside: str
) -> None:
    (tmp_path / "data").mkdir()
    place = str(tmp_path / "link")
    (tmp_path / "link").symlink_to("data")
    read = [argument.format(tmp_path / "data") for argument in arguments]
    answer = command(*read, place + inside)
    assert answer.status == 2 and "choose a place outside of it" in answer.err
    assert ("lies inside the" if inside else "is the") in answer.err
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("name", ["x.onx", "x.pt"])
def test_an_export_is_not_written_under_the_name_of_another_format(
    command: Command, tmp_path: Path, name: str
) -> None:
    answer = command("export", tmp_path / "run", "--out", tmp_path / "out" / name)
    assert answer.status == 2 and ".safetensors file; name it" in answer.err
    answer = command("export", tmp_path / "run", "--out", tmp_path / "x.onnx", "--format", "torch")
    assert answer.status == 2 and "name it x.pt2" in answer.err


def test_a_picture_that_cannot_be_written_is_named(
    command: Command, small_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for name, words in (
        ("a.bmpx", "'.bmpx' is no format of a picture; name a .png, .svg or .pdf\n"),
        ("file/a.png", "cannot be written"),
    ):
        answer = command("inspect", small_store, "--plot", tmp_path / name)
        assert answer.status == 2 and f"{tmp_path / name}: {words}" in answer.err
    picture = tmp_path / "new" / "first.png"
    assert command("inspect", small_store, "--plot", picture).status == 0 and picture.is_file()


def test_an_empty_folder_and_an_unwritable_output_are_named(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    empty = command("ingest", tmp_path / "empty", "--out", tmp_path / "store")
    assert empty.status == 2 and "holds no records" in empty.err
    (tmp_path / "file").write_text("in the way")
    blocked = command("ingest", WFDB / "records100", "--out", tmp_path / "file" / "store")
    assert blocked.status == 2 and str(tmp_path / "file") in blocked.err
