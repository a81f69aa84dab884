"""Every command and every snippet of the documents runs as it stands there."""

from __future__ import annotations

import csv
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from documents import PROGRAMS, Reader, blocks, inline
from torch import Tensor, nn

from conftest import BUNDLED, REPOSITORY, Command
from latentcast import cli
from latentcast.recipes import RECIPES
from latentcast.signals.readers.packed import PackedSource
from unit.ecg_files import write_wfdb

NO_READERS = {"docs/decisions.md", "docs/architecture.md"}
"""The first tells of the past; the second has a test of its own."""
DOCUMENTS = {
    name: (REPOSITORY / name).read_text()
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "benchmarks/README.md",
        *(str(file.relative_to(REPOSITORY)) for file in sorted(REPOSITORY.glob("docs/**/*.md"))),
    )
    if name not in NO_READERS
}
BLOCKS = {name: blocks(name, text) for name, text in DOCUMENTS.items()}
MINUTES = ("docs/verify.md", "benchmarks/README.md")
"""Their commands run in `make test-slow`."""
NOT_RUN = {
    "docs/measured/README.md": [
        "needs the repositories",
        "needs checkouts of the three repositories",
        "some minutes",
    ],
    "docs/measured/reports.md": ["needs checkouts of the three repositories"],
    "docs/engine.md": ["needs a Slurm cluster; tests/faults/test_slurm.py plays one"],
    "docs/scale.md": ["needs a cluster; tests/unit/test_cluster.py has one"],
    "docs/verify.md": [
        "minutes to hours; tests/verification does each of them in little",
        "a piece of a file",
    ],
}
LEFT_BEHIND = {
    "README.md": ("first.png", "run/report.html", "run/probe-superdiagnostic.json", "masks.png",
                  "hjepa/probe-superdiagnostic.json", "digits-run/probe-classes.json",
                  "encoder.safetensors", "encoder.onnx", "predictions.csv"),
    "benchmarks/README.md": ("jepa-curves.svg",),
}  # fmt: skip


def of_users() -> dict[str, Any]:
    """What docs/verify.md calls the user's own: a step, a model, a sampler of masks."""
    student, teacher = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
    teacher.load_state_dict(student.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)

    def train_step() -> None:
        x = torch.randn(8, 4)
        (student(x) - teacher(x).detach()).add(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.lerp_(s, 1 - 0.996)

    embedding = nn.Linear(3, 6)

    def model(values: Tensor) -> tuple[Tensor, Tensor]:
        embedded = embedding(values)
        return embedded, embedded.cumsum(1)

    def loss(embeddings: Tensor, predictions: Tensor) -> Tensor:
        return -nn.functional.cosine_similarity(
            predictions[:, :-1], embeddings[:, 1:].detach(), dim=-1
        ).mean()

    def sampler(draw: int) -> tuple[Tensor, list[Tensor]]:
        order = torch.randperm(196, generator=torch.Generator().manual_seed(draw))
        return order[:100], [order[100:150], order[150:]]

    rows, ecgs = np.random.default_rng(0).normal(size=(2, 5, 3, 40))
    ecgs[:, 2] = ecgs[:, 1] - ecgs[:, 0]
    return {
        "rate": lambda n: min(n, 999) / 999, "declared": lambda n: n / 999,
        "network": nn.ModuleDict({"norm": nn.LayerNorm(4)}),
        "penalty": lambda x: (1 - x.var(0)).relu().sum(),
        "rows": rows, "mean": rows.mean((0, 2)), "deviation": rows.std((0, 2)),
        "statements": [{"NORM": 100.0}, {"SR": 0.0}], "classes": ["NORM", "SR"],
        "targets": [[1, 0], [0, 1]], "ecgs": ecgs, "leads": ["I", "II", "III"],
        "train_step": train_step, "student": student, "teacher": teacher, "model": model,
        "values": torch.randn(2, 5, 3), "loss": loss, "sampler": sampler,
        "train": lambda: [train_step() for _ in range(5)], "signals": torch.randn(2, 40),
        "encode": lambda signals: signals.cumsum(-1),
    }  # fmt: skip


def recordings(folder: Path) -> None:
    """300 of the bundled ECGs as WFDB files with PTB-XL's table, enough to probe; and labels."""
    source = PackedSource(BUNDLED)
    for ref in source.refs()[:300]:
        recording, annotation = source.read(ref)
        file = folder / "my-ecgs" / annotation.metadata["filename_lr"]
        write_wfdb(file.parent, recording, file.name)
    table = BUNDLED / "ptbxl_database.csv"
    rows = table.read_text().splitlines(keepends=True)[:301]
    (folder / "my-ecgs" / table.name).write_text("".join(rows))
    labels = [
        f"{int(r['ecg_id']):05d},{int('SR' in (codes := r['scp_codes']))},{int('NORM' in codes)}"
        for r in csv.DictReader(rows)
    ]
    (folder / "labels.csv").write_text("\n".join(["id,sinus,normal", *labels]) + "\n")
    shutil.make_archive(str(folder / "my-ecgs"), "zip", folder, "my-ecgs")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in MINUTES else [])
        for name in BLOCKS
        if BLOCKS[name]
    ],
)
def test_commands_and_snippets_in_their_order(
    document: str,
    user_folder: Path,
    small_run: Path,
    small_store: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(user_folder)
    if document == "README.md":
        recordings(user_folder)
    else:
        (user_folder / "run").symlink_to(small_run)
        shutil.copytree(small_store, user_folder / "store")  # a page may label it
    reader = Reader(user_folder, command, of_users() if document == "docs/verify.md" else {})
    with closing(reader):
        for block in BLOCKS[document]:
            if block.reason is None and block.language in ("bash", "python"):
                reader.run(block)
    for name in LEFT_BEHIND.get(document, ()):
        assert (user_folder / name).stat().st_size > 1000, name
    if document == "README.md":
        resumed = [re.search(r"resuming at step (\d+) of (\d+)", text) for text in reader.printed]
        (step, last), *more = [tuple(map(int, found.groups())) for found in resumed if found]
        assert 0 < step < last == 40  # one rank went on where two were stopped
        assert more == [(40, 60)]  # and trained on when they were done


def test_a_block_that_is_not_run_says_why() -> None:
    reasons = {name: [b.reason for b in found if b.reason] for name, found in BLOCKS.items()}
    assert {name: found for name, found in reasons.items() if found} == NOT_RUN


def test_no_command_hides_in_a_block_of_another_language() -> None:
    every = [block for found in BLOCKS.values() for block in found]
    hidden = [
        str(block)
        for block in every
        if block.language not in ("bash", "python")
        and any(line.split()[0] in PROGRAMS for line in block.commands)
    ]
    assert hidden == []
    unknown = {block.language for block in every} - {"bash", "python", ""}
    assert not unknown, f"nobody runs blocks of {unknown}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_sentences_name_verbs_flags_recipes_and_files_that_exist(document: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for words in inline(DOCUMENTS[document]):
        sentence = " ".join(words)
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), sentence
        elif "latentcast" in words[:-1]:
            verb, *arguments = words[words.index("latentcast") + 1 :]
            names = inspect.signature(getattr(cli, verb)).parameters
            parameters = {name.rstrip("_") for name in names}  # --in is in_
            flags = [word[2:].replace("-", "_") for word in arguments if word.startswith("--")]
            recipes = [word for word in arguments if re.match(r"(nepa|[ih]jepa)-", word)]
            assert set(flags) <= parameters and set(recipes) <= set(RECIPES), sentence
        elif words[0].startswith("latentcast."):
            pkgutil.resolve_name(words[0])
        elif words[0].endswith(".py") and document.startswith("benchmarks/"):
            source = (REPOSITORY / "benchmarks" / words[0]).read_text()
            flags = [word for word in words if word.startswith("--")]
            assert all(f'"{flag}"' in source for flag in flags), sentence
        elif document.startswith("docs/measured/"):
            continue  # files of other repositories
        elif re.match(r"(src|tests|docs|benchmarks|examples|scripts|data)/", words[0]):
            assert list(REPOSITORY.glob(words[0].rstrip("/"))), sentence


def test_links_lead_somewhere() -> None:
    for document, text in DOCUMENTS.items():
        for link, heading in re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", text):
            target = (REPOSITORY / document).parent / link if link else REPOSITORY / document
            assert target.exists(), f"{document}: {link}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                slugs = [
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                ]
                assert heading in slugs, f"{document}: {link}#{heading}"


def test_the_numbers_of_claims_and_faults_are_those_of_the_catalogue() -> None:
    from dev.catalogue import all_faults
    from latentcast.verification.claims import all_claims

    readme = " ".join(DOCUMENTS["README.md"].split())
    assert f"{len(all_faults())} faults" in readme
    assert f"one of the {len(all_claims())} claims" in readme


@pytest.mark.slow
def test_make_demo_from_a_clean_copy(tmp_path: Path) -> None:
    """The whole demo; the environment of this test run serves as its .venv."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    for name in filter(None, tracked):
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target)
    (tmp_path / "copy" / ".venv").mkdir()
    (tmp_path / "copy" / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (tmp_path / "copy" / ".venv" / "installed").touch()
    done = subprocess.run(["make", "demo"], cwd=tmp_path / "copy", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "copy" / "demo" / "run" / "report.html").exists()
