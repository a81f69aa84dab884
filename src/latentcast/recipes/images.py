"""Image recipes."""

from __future__ import annotations

from latentcast.config import (
    Blocks,
    Config,
    EmaConfig,
    EncoderConfig,
    ImageAugmentation,
    ImageInput,
    LevelConfig,
    OptimizerConfig,
    PredictorConfig,
    Rotary,
    SinCos,
    TargetBlocks,
    TrainConfig,
    Views,
)
from latentcast.config.training import MuonConfig
from latentcast.config.views import NtXent
from latentcast.nn.resnet import ResNetConfig
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.masked import ConvPredictorConfig, MaskedConfig
from latentcast.objectives.nepa import NepaConfig
from latentcast.objectives.regularizers import VicReg
from latentcast.objectives.views import ViewsAloneConfig


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
        objective=NepaConfig(),
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
        objective=NepaConfig(),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=100, betas=(0.9, 0.95)),
        ema=EmaConfig(base=0.99, final=0.99),
        train=TrainConfig(steps=2000, batch_size=128),
    )  # fmt: skip


def ijepa_image_huge() -> Config:
    """I-JEPA ViT-H/14 on 224 × 224 as published: batch 2048, 300 epochs of ImageNet-1k.

    1,281,167 images in whole batches of 2048 are 625 steps an epoch. Masks are our own
    (``masks.kind: blocks``); ``reference`` gives those of the original.
    """
    steps = 300 * (1_281_167 // 2048)
    return Config(
        recipe="ijepa-image-huge",
        input=ImageInput(height=224, width=224, crop_scale=(0.3, 1.0)),
        encoder=EncoderConfig(
            patch=14, width=1280, depth=32, heads=16, mlp_width=5120, qk_norm=False,
            layer_scale=None, norm_eps=1e-6, causal=False, cls=False, positions=SinCos(),
        ),
        objective=JepaConfig(
            predictor=PredictorConfig(width=384, depth=12, heads=16, mlp_width=1536),
            masks=Blocks(),
        ),
        optimizer=OptimizerConfig(
            lr=1e-3, start_lr=2e-4, final_lr=1e-6, warmup_steps=40 * steps // 300,
            weight_decay=0.04, final_weight_decay=0.4, betas=(0.9, 0.999), clip_grad_norm=None,
        ),
        ema=EmaConfig(base=0.996, final=1.0),
        train=TrainConfig(steps=steps, batch_size=2048, micro_batches=16, precision="bf16"),
    )  # fmt: skip


def ijepa_image_base() -> Config:
    """I-JEPA ViT-B/16 on 224 × 224: 600 epochs, a predictor of 6 blocks."""
    epoch = 1_281_167 // 2048
    return ijepa_image_huge().updated(
        {
            "recipe": "ijepa-image-base",
            "encoder.patch": 16,
            "encoder.width": 768,
            "encoder.depth": 12,
            "encoder.heads": 12,
            "encoder.mlp_width": 3072,
            "objective.predictor.depth": 6,
            "objective.predictor.heads": 12,
            "optimizer.warmup_steps": 40 * epoch,
            "train.steps": 600 * epoch,
        }
    )


def ijepa_image_tiny() -> Config:
    """I-JEPA for two cores: 32 × 32 in patches of 4, with a weak VICReg on the context.

    Three departures from the published recipe, each for few steps on small images (docs/jepa.md):
    the regularizer, a faster teacher, and a patch embedding that starts as long as the positions.
    """
    return Config(
        recipe="ijepa-image-tiny",
        input=ImageInput(height=32, width=32, normalisation=None, crop_scale=(0.3, 1.0), flip=True),
        encoder=EncoderConfig(
            patch=4, patch_std=0.15, width=192, depth=4, heads=3, mlp_width=768, qk_norm=False,
            layer_scale=None, norm_eps=1e-6, causal=False, cls=False, positions=SinCos(),
        ),
        objective=JepaConfig(
            predictor=PredictorConfig(width=96, depth=2, heads=3, mlp_width=384),
            masks=Blocks(least_context=4), regularizer=VicReg(weight=0.1),
        ),
        optimizer=OptimizerConfig(
            lr=1e-3, start_lr=2e-4, final_lr=1e-6, warmup_steps=200, weight_decay=0.04,
            final_weight_decay=0.4, betas=(0.9, 0.999), clip_grad_norm=None,
        ),
        ema=EmaConfig(base=0.99, final=1.0),
        train=TrainConfig(steps=2000, batch_size=64, precision="bf16", log_every=40),
    )  # fmt: skip


def ijepa_image_digits() -> Config:
    """The image demo's: 8 × 8 digits, every pixel a patch; a minute or two on two cores."""
    return ijepa_image_tiny().updated(
        {
            "recipe": "ijepa-image-digits",
            "input": {"kind": "image", "height": 8, "width": 8, "channels": 1,
                      "normalisation": None},
            "encoder.patch": 1,
            "encoder.patch_std": 1.0,
            "encoder.width": 64,
            "encoder.depth": 3,
            "encoder.heads": 2,
            "encoder.mlp_width": 256,
            "objective.predictor": {"width": 32, "depth": 2, "heads": 2, "mlp_width": 128},
            "train.checkpoint_every": 500,
        }
    )  # fmt: skip


def conv_image_tiny() -> Config:
    """The convolutional twin for two cores: masked latents and two views of 32 × 32, patches of 4.

    A residual network that halves the image twice, to a token for each 4 × 4 pixels.
    """
    return Config(
        recipe="conv-image-tiny",
        input=ImageInput(height=32, width=32, normalisation=None),
        encoder=ResNetConfig(patch=4, width=256, depth=3, stem_width=64, kernels=(3,)),
        objective=MaskedConfig(
            mask_ratio=0.4, mask_span=2, predictor=ConvPredictorConfig(kernel=3),
            views=Views(augmentation=ImageAugmentation(), weight=0.1),
        ),
        optimizer=OptimizerConfig(
            lr=2e-3, warmup_steps=200, weight_decay=0.05, betas=(0.9, 0.999), clip_grad_norm=None
        ),
        ema=EmaConfig(base=0.99, final=1.0),
        train=TrainConfig(
            steps=2000, batch_size=64, precision="bf16", log_every=40, checkpoint_every=500
        ),
    )  # fmt: skip


def simclr_image_tiny() -> Config:
    """Two views alone, compared by NT-Xent, for an hour of two cores: 71 passes over CIFAR-10.

    The augmentations of SimCLR (Chen et al. 2020) without its hues, on a residual network that
    halves the image three times. What it learns in that hour comes from views of 24 pixels, a
    decoupled term and Muon (docs/views.md).
    """
    return Config(
        recipe="simclr-image-tiny",
        input=ImageInput(height=32, width=32, normalisation=None),
        encoder=ResNetConfig(patch=8, width=256, depth=3, stem_width=64, kernels=(3,)),
        objective=ViewsAloneConfig(
            views=Views(
                augmentation=ImageAugmentation(
                    crop_scale=(0.2, 1.0), size=24, brightness=0.4, contrast=0.4, saturation=0.4,
                    grey=0.2,
                ),
                comparison=NtXent(temperature=0.1, decoupled=True),
                projector=(512, 128),
            )
        ),
        optimizer=OptimizerConfig(
            lr=2e-3, warmup_steps=200, weight_decay=0.05, betas=(0.9, 0.999), clip_grad_norm=None,
            muon=MuonConfig(iterations=3),
        ),
        ema=EmaConfig(base=0.99, final=1.0),
        train=TrainConfig(
            steps=12_500, batch_size=256, precision="bf16", log_every=40, checkpoint_every=500
        ),
    )  # fmt: skip


def conv_image_digits() -> Config:
    """The same on the image demo's 8 × 8 digits, in patches of 2 × 2, which are not mirrored."""
    return conv_image_tiny().updated(
        {
            "recipe": "conv-image-digits",
            "input": {"kind": "image", "height": 8, "width": 8, "channels": 1,
                      "normalisation": None},
            "encoder.patch": 2,
            "encoder.width": 128,
            "encoder.stem_width": 32,
            "objective.views.augmentation": {"kind": "image", "crop_scale": [0.6, 1.0],
                                             "flip": False},
            "objective.views.projector": [256, 256],
            "optimizer.warmup_steps": 100,
            "train.steps": 1000,
        }
    )  # fmt: skip


def hjepa_image_digits() -> Config:
    """H-JEPA on 8 × 8 digits: pixels, and cells of 2 × 2 above them."""
    return _with_levels(ijepa_image_digits(), "hjepa-image-digits", levels=1, depth=1)


def hjepa_image_tiny() -> Config:
    """H-JEPA for two cores: 32 × 32 in patches of 4, and one level of 2 × 2 patches above."""
    return _with_levels(ijepa_image_tiny(), "hjepa-image-tiny", levels=1, depth=1)


def hjepa_image_base() -> Config:
    """H-JEPA on 256 × 256 in patches of 16: grids of 16, 8 and 4 cells a side."""
    base = ijepa_image_base().updated({"input.height": 256, "input.width": 256})
    return _with_levels(base, "hjepa-image-base", levels=2, depth=2)


def _with_levels(config: Config, name: str, levels: int, depth: int) -> Config:
    """Coarser levels as wide as the finest, each with its predictor; fewer targets on each."""
    jepa, encoder = config.objective, config.encoder
    assert isinstance(jepa, JepaConfig) and isinstance(encoder, EncoderConfig)
    # What the targets of all levels can hide has to leave a context.
    share = (0.15, 0.2) if levels == 1 else (0.1, 0.15)
    masks = Blocks(targets=2, target_scale=share, least_context=4)
    above = TargetBlocks(targets=2, target_scale=share)
    coarser = LevelConfig(
        stride=2, width=encoder.width, depth=depth, heads=encoder.heads,
        mlp_width=encoder.mlp_width, predictor=jepa.predictor, masks=above,
    )  # fmt: skip
    own = JepaConfig(
        predictor=jepa.predictor, masks=masks, coarser=(coarser,) * levels, fusion=True,
        regularizer=jepa.regularizer,
    )  # fmt: skip
    return config.updated({"recipe": name, "objective": own.model_dump()})
