"""ECG recipes."""

from __future__ import annotations

from latentcast.config import (
    Config,
    EcgInput,
    EmaConfig,
    EncoderConfig,
    OptimizerConfig,
    Rotary,
    TrainConfig,
)


def nepa_ecg_small() -> Config:
    """NEPA-ECG as published: 14,318,592 parameters, 12 leads, 10 s at 500 Hz, 50 ms patches.

    Batch size, steps and the average of the weights are not in the published table; ours are in
    docs/decisions.md.
    """
    return Config(
        recipe="nepa-ecg-small",
        input=EcgInput(sampling_rate=500, length=5000, clip=5),
        encoder=EncoderConfig(
            patch=25, width=384, depth=8, heads=6, mlp_width=1536, qkv_bias=True, qk_norm=True,
            layer_scale=1e-5, norm_eps=1e-12, positions=Rotary(theta=100, rescale=2.0),
        ),
        optimizer=OptimizerConfig(
            lr=1e-3, warmup_steps=10_000, weight_decay=0.05, betas=(0.9, 0.99)
        ),
        ema=EmaConfig(base=0.9999, final=0.9999),
        train=TrainConfig(steps=100_000, batch_size=256, precision="bf16"),
    )  # fmt: skip


def nepa_ecg_base() -> Config:
    """The published base variant: 768 wide, 12 deep, 12 heads, MLP 3072."""
    small = nepa_ecg_small()
    wide = {
        "encoder.width": 768,
        "encoder.depth": 12,
        "encoder.heads": 12,
        "encoder.mlp_width": 3072,
    }
    return small.updated({"recipe": "nepa-ecg-base", **wide})


def nepa_ecg_tiny() -> Config:
    """The demo's: minutes on two cores, 10 s at 100 Hz, 200 ms patches."""
    return Config(
        recipe="nepa-ecg-tiny",
        input=EcgInput(sampling_rate=100, length=1000, clip=5),
        encoder=EncoderConfig(
            patch=20, width=128, depth=4, heads=4, mlp_width=512, layer_scale=1.0,
            positions=Rotary(coordinates="normalized", rescale=None),
        ),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=200, betas=(0.9, 0.99)),
        ema=EmaConfig(base=0.99, final=0.99),
        train=TrainConfig(
            steps=4000, batch_size=32, precision="bf16", log_every=40, checkpoint_every=400
        ),
    )  # fmt: skip
