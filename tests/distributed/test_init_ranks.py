"""Weights at the start of a training in shards: every rank has all of them before it keeps some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from spawn import in_ranks

from latentcast.artifacts.weights import read_weights
from latentcast.config import Config
from latentcast.workflows.train import train

if not dist.is_available():
    pytest.skip("torch was built without distributed", allow_module_level=True)


def work(rank: int, config: Config, store: Path, out: Path, init: Path, meeting: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    train(config, store, out, init=init, quiet=True)
    dist.destroy_process_group()


def test_a_run_in_shards_starts_from_the_weights_that_one_process_starts_from(
    small_config: Config, small_store: Path, tmp_path: Path
) -> None:
    # Of one optimizer step: where a gradient is nothing but roundings, AdamW makes whole steps.
    one_step = {"train.steps": 1, "optimizer.warmup_steps": 1, "optimizer.eps": 1e-5}
    config = small_config.updated(one_step | {"train.seed": 1})
    train(small_config.updated({"train.steps": 4}), small_store, tmp_path / "init", quiet=True)
    train(config, small_store, tmp_path / "one", init=tmp_path / "init", quiet=True)
    shards, one = tmp_path / "two", read_weights(tmp_path / "one").tensors
    places = (small_store, shards, tmp_path / "init", tmp_path / "meeting")
    in_ranks(work, 2, config.updated({"machine.parallel": "fsdp"}), *places)
    for name, tensor in read_weights(shards).tensors.items():
        torch.testing.assert_close(tensor, one[name], rtol=0, atol=1e-5, msg=name)
