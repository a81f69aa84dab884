"""What docs/architecture.md says about adding to the package works for who knows only that page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from additions import added, apply, copy_of_the_package, sections, use

from conftest import REPOSITORY

DOCUMENT = "docs/architecture.md"
TEXT = (REPOSITORY / DOCUMENT).read_text()
SECTIONS = sections(DOCUMENT, TEXT, "^How to add")
TITLES = {
    f"How to add {what}"
    for what in ("an objective", "a backbone", "a file format", "a task", "a data set")
}
WITHOUT_EXAMPLE: set[str] = set()
"""Headings whose example is still to be written."""
MOST_LINES = 60

A_RECIPE = """
## How to add a recipe

```python
# file: src/latentcast/recipes/mine.py
from latentcast.config import Config
from latentcast.recipes.ecg import nepa_ecg_tiny


def mine() -> Config:
    \"\"\"The demo's, half as deep.\"\"\"
    return nepa_ecg_tiny().updated({"encoder.depth": 2, "recipe": "mine"})
```

```python
# add to: RECIPES in src/latentcast/recipes/__init__.py
from latentcast.recipes.mine import mine
    "mine": mine,
```

```bash
latentcast recipes mine
latentcast train mine --data store --out run --set train.steps=2 optimizer.warmup_steps=1
```

```python
from latentcast import Encoder, Store

width = Encoder.from_pretrained("run").embed([Store.open("store").recording(0)]).shape[1]
print("embedded in", width)
```
"""


@pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=[pytest.mark.slow] if "backbone" in title else [])
        for title in sorted(set(SECTIONS) - WITHOUT_EXAMPLE)
    ],
)
def test_the_example_works_as_written(
    title: str, user_folder: Path, small_store: Path, digits_store: Path, tmp_path: Path
) -> None:
    (user_folder / "store").symlink_to(small_store)
    (user_folder / "digits").symlink_to(digits_store)
    section = SECTIONS[title]
    assert sum(len(block.text.splitlines()) for block in section) < MOST_LINES
    repository = copy_of_the_package(tmp_path / "copy")
    uses = apply(section, repository)
    assert uses, "nothing uses what was added"
    use(uses, repository, user_folder)


def test_each_of_the_five_has_its_example() -> None:
    assert set(SECTIONS) == TITLES
    assert {title for title, found in SECTIONS.items() if not found} == WITHOUT_EXAMPLE


def test_an_addition_to_a_copy_is_what_the_copy_uses(
    user_folder: Path, small_store: Path, tmp_path: Path
) -> None:
    (user_folder / "store").symlink_to(small_store)
    (section,) = sections("a page", A_RECIPE, "recipe").values()
    repository = copy_of_the_package(tmp_path / "copy")
    uses = apply(section, repository)
    printed = use(uses, repository, user_folder)
    assert re.search("recipe: mine", printed) and "embedded in 128" in printed
    assert not (REPOSITORY / "src" / "latentcast" / "recipes" / "mine.py").exists()
    line = A_RECIPE[: A_RECIPE.index("latentcast recipes mine")].count("\n") + 1
    assert f"-- a page:{line}\n" in printed
    with pytest.raises(AssertionError, match="'yours'|yours: is no recipe"):
        use([replace(uses[0], text="latentcast recipes yours")], repository, user_folder)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("A = [1]", [1, 9]),
        ("A = [\n    1,  # one, [1]\n]", [1, 9]),
        ("A: tuple[int, ...] = (\n    *(1, 2),\n    3\n)", (1, 2, 3, 9)),
        ("A = ()", (9,)),
        ("A = {1}", {1, 9}),
        ("A = int | str", "int | str | 9"),
        ("A = Annotated[int | str, 5]", "Annotated[int | str | 9, 5]"),
    ],
)
def test_an_entry_is_the_last_of_its_list(source: str, expected: object) -> None:
    found = added(
        f'"""é, of two bytes"""\nimport os\n{source}\nB = 0\n', "A", ["import re", "    9,"]
    )
    assert "import os\nimport re\n" in found and found.endswith("B = 0\n")
    if isinstance(expected, str):
        assert f"A = {expected}\n" in found
    else:
        names: dict[str, object] = {}
        exec(found, names)
        assert names["A"] == expected


def test_a_list_that_is_gone_is_named() -> None:
    with pytest.raises(LookupError, match="OTHER"):
        added("A = [1]\n", "OTHER", ["2,"])
    with pytest.raises(LookupError, match="A is no list"):
        added("A = f(1)\n", "A", ["2,"])
