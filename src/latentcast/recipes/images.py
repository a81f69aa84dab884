"""Image recipes."""

from __future__ import annotations

from latentcast.config import (
    Config,
    EmaConfig,
    EncoderConfig,
    ImageInput,
    OptimizerConfig,
    Rotary,
    TrainConfig,
)


def nepa_image_base() -> Config:
    """NEPA-B/14 on 224 × 224 as published: batch 4096, lr 3e-4 · 4096 / 256, β₂ 0.95.

    1600 epochs of ImageNet-1k (1,281,167 images) are 500,456 steps, 2.5 % of them warm-up.
    """
    steps = 1600 * 1_281_167 // 4096
    return Config(
        recipe="nepa-image-base",
        input=ImageInput(height=224, width=224),
        encoder=EncoderConfig(
            patch=14, width=768, depth=12, heads=12, mlp_width=3072, qkv_bias=True, qk_norm=True,
            layer_scale=1e-5, norm_eps=1e-12, positions=Rotary(theta=100, rescale=2.0),
        ),
        optimizer=OptimizerConfig(
            lr=3e-4 * 4096 / 256, warmup_steps=round(0.025 * steps), weight_decay=0.05,
            betas=(0.9, 0.95),
        ),
        ema=EmaConfig(base=0.9999, final=0.9999),
        train=TrainConfig(steps=steps, batch_size=4096, micro_batches=16, precision="bf16"),
    )  # fmt: skip


def nepa_image_large() -> Config:
    """NEPA-L/14 as published: 1024 wide, 24 deep, 16 heads, MLP 4096, affine QK-norm."""
    base = nepa_image_base()
    wide = {
        "encoder.width": 1024,
        "encoder.depth": 24,
        "encoder.heads": 16,
        "encoder.mlp_width": 4096,
        "encoder.qk_norm_affine": True,
    }
    return base.updated({"recipe": "nepa-image-large", **wide})


def nepa_image_tiny() -> Config:
    """Minutes on two cores: 32 × 32 in patches of 4."""
    return Config(
        recipe="nepa-image-tiny",
        input=ImageInput(height=32, width=32),
        encoder=EncoderConfig(
            patch=4, width=192, depth=4, heads=3, mlp_width=768, layer_scale=0.1
        ),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=100, betas=(0.9, 0.95)),
        ema=EmaConfig(base=0.99, final=0.99),
        train=TrainConfig(steps=2000, batch_size=128),
    )  # fmt: skip
