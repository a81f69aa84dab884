"""Which models ship with the package, and where the weights of a name or folder lie.

``scripts/ship_weights.py`` writes the files and their checksums.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from latentcast.errors import LatentcastError, nearest
from latentcast.files import check_digest, read_object, sha256

FOLDER = Path(str(resources.files(__package__)))
CHECKSUMS = "models.json"
"""Of every file of a model: its name and the sha256 of its bytes."""
OWNER = "latentcast"
"""A model is named OWNER/NAME."""
WEIGHTS = "model.safetensors"
"""The weights in the folder of an exported model."""


def models() -> tuple[str, ...]:
    """The names of what ships, sorted."""
    return tuple(sorted(f"{OWNER}/{Path(file).stem}" for file in _checksums() if _weights(file)))


def model_file(name: str, suffix: str = ".safetensors") -> Path:
    """The weights of a model that ships, or, with suffix ``.md``, its card.

    Raises:
        LatentcastError: no such model, or the file is missing or damaged.
    """
    if name not in models():
        near = nearest(name, models()) if models() else "this version ships none"
        raise LatentcastError(
            f"{name}: does not exist here and is no model that ships with latentcast; {near}"
        )
    file = FOLDER / f"{name.removeprefix(f'{OWNER}/')}{suffix}"
    try:
        found = sha256(file)
    except OSError as problem:
        raise LatentcastError(
            f"{file}: cannot be read ({problem}); install the package again"
        ) from None
    if found != _checksums().get(file.name):
        raise LatentcastError(
            f"{file}: is damaged (its sha256 is another); install the package again"
        )
    return file


def ships(source: str | Path) -> bool:
    """Whether a path is the name of a model that ships, or means one; what exists is a path."""
    owner, _, name = Path(source).as_posix().partition("/")
    return owner == OWNER and bool(name) and "/" not in name and not Path(source).exists()


def located(source: str | Path) -> Path:
    """The file of a model that ships, of the name OWNER/NAME, or of the folder of an exported
    model; of ``RUN@STEP`` the checkpoint; any other path as it is, whether it exists or not.

    Raises:
        LatentcastError: no model of that name ships, or the run has no checkpoint of that step.
    """
    path = at_step(source)
    if ships(path):
        return model_file(path.as_posix())
    return path / WEIGHTS if (path / WEIGHTS).is_file() else path


def at_step(source: str | Path) -> Path:
    """``RUN@STEP`` as the checkpoint ``RUN/checkpoints/step-N``; any other path, also one that
    exists and has an @ in its name, as it is.

    Raises:
        LatentcastError: the run has no checkpoint of that step.
    """
    path = Path(source)
    run, at, step = str(source).rpartition("@")
    folder = Path(run)
    if not (at and run) or path.exists() or not folder.exists():
        return path
    found = (file.parent for file in folder.glob("checkpoints/step-*/state.json"))
    kept = {int(path.name[5:]): path for path in found if path.name[5:].isdecimal()}
    if not kept:
        raise LatentcastError(f"{run}: has no checkpoints; leave out @{step}")
    if not step.isdecimal() or int(step) not in kept:
        steps = sorted(kept)
        raise LatentcastError(
            f"{run}: has no checkpoint of step {step}, it has {', '.join(map(str, steps))}; write "
            f"{run}@{steps[-1]}"
        )
    return kept[int(step)]


def scores_folder(source: str | Path) -> Path:
    """Where the scores of a model are written: its folder, that of its file, or, of one that ships,
    the current folder."""
    path = Path(source)
    if ships(source):
        return Path()
    return path.parent if path.is_file() else path


def _weights(file: str) -> bool:
    return file.endswith(".safetensors")


def _checksums() -> Mapping[str, str]:
    file = FOLDER / CHECKSUMS
    try:
        record = read_object(file)
        check_digest(record)
        return {str(name): str(digest) for name, digest in record["sha256"].items()}
    except (OSError, ValueError, KeyError, AttributeError) as problem:
        raise LatentcastError(
            f"{file}: cannot be used ({problem}); install the package again"
        ) from None
