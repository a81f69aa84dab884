"""Reading and embedding on a cluster: the same bytes, or a sentence before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from latentcast.data import cluster
from latentcast.data.cluster import Cluster
from latentcast.data.ingest import ingest
from latentcast.data.readers import in_order
from latentcast.errors import LatentcastError
from latentcast.workflows.embed import embed
from ray_stand_in import ray_of_threads

WFDB = Path(__file__).parents[1] / "data" / "ptbxl_wfdb"


@pytest.fixture(params=["stand-in", pytest.param("ray", marks=pytest.mark.slow)])
def ray(request: pytest.FixtureRequest) -> Iterator[None]:
    """The stand-in, and Ray itself on this machine where it is installed."""
    if request.param == "ray":
        pytest.importorskip("ray")
        yield
        return
    with ray_of_threads():
        yield


def test_a_store_read_on_a_cluster_has_other_bytes(ray: None, tmp_path: Path) -> None:
    for name, how in (("here", {"workers": 1}), ("there", {"cluster": "local"})):
        ingest(WFDB, tmp_path / name, fs=100, quiet=True, **how)  # type: ignore[arg-type]
    files = sorted(f.relative_to(tmp_path / "here") for f in (tmp_path / "here").rglob("*.*"))
    assert len(files) > 3
    for file in files:
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()


def test_vectors_of_a_cluster_are_others(ray: None, small_store: Path, tmp_path: Path) -> None:
    for name, address in (("here", None), ("there", "local")):
        embed("latentcast/conv-ecg-tiny", [WFDB, small_store], tmp_path / f"{name}.npz",
              resample=True, cluster=address, quiet=True)  # fmt: skip
    with np.load(tmp_path / "here.npz") as here, np.load(tmp_path / "there.npz") as there:
        assert len(here["ids"]) > 3
        assert all(np.array_equal(here[name], there[name]) for name in here.files)


def test_machine_without_the_files_quarantines_its_part(tmp_path: Path) -> None:
    lost = Cluster("local", (tmp_path / "not mounted",))
    with ray_of_threads(), pytest.raises(LatentcastError, match=r"mounted: does not exist on"):
        [*in_order(_twice, [1, 2, 3], lost, 1, "name")]


def test_machine_with_another_version_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["1.0", "2.0"])
    monkeypatch.setattr(cluster, "library_version", lambda: next(versions))
    with ray_of_threads(), pytest.raises(LatentcastError, match=r"2\.0: is installed on"):
        [*in_order(_twice, [1], Cluster("local"), 1, "name")]


def test_error_of_a_call_is_wrapped_by_that_of_the_cluster() -> None:
    with ray_of_threads(), pytest.raises(LatentcastError, match=r"^thing: is bad; fix it$"):
        [*in_order(_bad, [1, 2, 3], Cluster("local"), 1, "name")]


@pytest.mark.slow
def test_process_that_dies_hangs_the_rest() -> None:
    pytest.importorskip("ray")
    with pytest.raises(LatentcastError, match="a reader process died"):
        # A lambda, which goes there as it is: this module cannot be imported there.
        [*in_order(lambda _: os._exit(9), [1, 2, 3], Cluster("local"), 1, "name")]


def _twice(batch: list[int]) -> list[int]:
    return [2 * number for number in batch]


def _bad(batch: list[int]) -> list[int]:
    raise LatentcastError("thing: is bad; fix it")
