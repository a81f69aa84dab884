"""ECG recipes."""

from __future__ import annotations

from latentcast.config import (
    Config,
    ContextBlocks,
    EcgAugmentation,
    EcgInput,
    EmaConfig,
    EncoderConfig,
    LevelConfig,
    OptimizerConfig,
    PredictorConfig,
    Rotary,
    SinCos,
    TrainConfig,
    Views,
)
from latentcast.nn.conv_tokenizer import ConvEncoderConfig
from latentcast.nn.resnet import ResNetConfig
from latentcast.objectives.cpc import CpcConfig
from latentcast.objectives.jepa import JepaConfig
from latentcast.objectives.masked import MaskedConfig
from latentcast.objectives.nepa import NepaConfig
from latentcast.objectives.regularizers import VicReg


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
        objective=NepaConfig(),
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
    """Minutes on two cores: 10 s at 100 Hz, 200 ms patches."""
    return Config(
        recipe="nepa-ecg-tiny",
        input=EcgInput(sampling_rate=100, length=1000, clip=5),
        encoder=EncoderConfig(
            patch=20, width=128, depth=4, heads=4, mlp_width=512, layer_scale=1.0,
            positions=Rotary(coordinates="normalized", rescale=None),
        ),
        objective=NepaConfig(),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=200, betas=(0.9, 0.99)),
        ema=EmaConfig(base=0.99, final=0.99),
        train=TrainConfig(
            steps=4000, batch_size=32, precision="bf16", log_every=40, checkpoint_every=400
        ),
    )  # fmt: skip


def cpc_ecg_tiny() -> Config:
    """Minutes on two cores: CPC with convolutions in each 200 ms patch, four patches ahead.

    In size and in operations it is ``nepa-ecg-tiny``; there is no CLS, which nothing would train.
    """
    return Config(
        recipe="cpc-ecg-tiny",
        input=EcgInput(sampling_rate=100, length=1000, clip=5),
        encoder=ConvEncoderConfig(
            patch=20, width=128, depth=4, heads=4, mlp_width=512, layer_scale=1.0, cls=False,
            positions=Rotary(coordinates="normalized", rescale=None), stem_width=32,
        ),
        objective=CpcConfig(steps=4),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=200, betas=(0.9, 0.99)),
        ema=EmaConfig(base=0.99, final=0.99),
        train=TrainConfig(
            steps=2900, batch_size=32, precision="bf16", log_every=40, checkpoint_every=400
        ),
    )  # fmt: skip


def ijepa_ecg_small() -> Config:
    """I-JEPA in one dimension: 200 patches of 50 ms, 15–25 % of them as context.

    The masks are those of the published ECG setting (stretches of at least 10 patches), the
    optimizer I-JEPA's; the encoder has the size of ``nepa-ecg-small``, to compare them.
    """
    return Config(
        recipe="ijepa-ecg-small",
        input=EcgInput(sampling_rate=500, length=5000, clip=5),
        encoder=EncoderConfig(
            patch=25, width=384, depth=8, heads=6, mlp_width=1536, qk_norm=False,
            layer_scale=None, norm_eps=1e-6, causal=False, cls=False, positions=SinCos(),
        ),
        objective=JepaConfig(
            predictor=PredictorConfig(width=192, depth=4, heads=6, mlp_width=768),
            masks=ContextBlocks(context_share=(0.15, 0.25), least_block=10),
        ),
        optimizer=OptimizerConfig(
            lr=1e-3, start_lr=2e-4, final_lr=1e-6, warmup_steps=10_000, weight_decay=0.04,
            final_weight_decay=0.4, betas=(0.9, 0.999), clip_grad_norm=None,
        ),
        ema=EmaConfig(base=0.996, final=1.0),
        train=TrainConfig(steps=100_000, batch_size=256, precision="bf16"),
    )  # fmt: skip


def ijepa_ecg_tiny() -> Config:
    """Minutes on two cores: 10 s at 100 Hz, 200 ms patches, as many operations as nepa-ecg-tiny.

    Two departures from the published recipe, for few steps on few recordings (docs/jepa.md):
    rotary positions, and a weak VICReg on the context.
    """
    return Config(
        recipe="ijepa-ecg-tiny",
        input=EcgInput(sampling_rate=100, length=1000, clip=5),
        encoder=EncoderConfig(
            patch=20, width=128, depth=4, heads=4, mlp_width=512, qk_norm=False,
            layer_scale=None, norm_eps=1e-6, causal=False, cls=False,
            positions=Rotary(rescale=None),
        ),
        objective=JepaConfig(
            predictor=PredictorConfig(width=64, depth=2, heads=4, mlp_width=256),
            masks=ContextBlocks(context_share=(0.15, 0.25), least_block=3),
            regularizer=VicReg(weight=0.1),
        ),
        optimizer=OptimizerConfig(
            lr=1e-3, start_lr=2e-4, final_lr=1e-6, warmup_steps=400, weight_decay=0.04,
            final_weight_decay=0.4, betas=(0.9, 0.999), clip_grad_norm=None,
        ),
        ema=EmaConfig(base=0.996, final=1.0),
        train=TrainConfig(
            steps=5900, batch_size=32, precision="bf16", log_every=40, checkpoint_every=400
        ),
    )  # fmt: skip


def conv_ecg_tiny() -> Config:
    """The demo's: a residual convolutional network, masked latents and two crops of 5 s."""
    return Config(
        recipe="conv-ecg-tiny",
        input=EcgInput(sampling_rate=100, length=1000, clip=None),
        encoder=ResNetConfig(
            patch=8, width=256, depth=3, stem_width=48, kernels=(15, 9, 7, 5), norm="batch"
        ),
        objective=MaskedConfig(
            mask_ratio=0.4,
            mask_span=5,
            visible_weight=0.25,
            views=Views(
                crop=0.504,
                augmentation=EcgAugmentation(
                    gain=0.14, lead_gain=0.1, wander=0.03, noise=0.02, drop_leads=0.3
                ),
                weight=0.05,
            ),
        ),
        optimizer=OptimizerConfig(
            lr=2e-3, warmup_steps=125, weight_decay=0.05, betas=(0.9, 0.999), clip_grad_norm=None
        ),
        ema=EmaConfig(base=0.99, final=1.0),
        train=TrainConfig(
            steps=1250, batch_size=64, precision="bf16", log_every=40, checkpoint_every=250
        ),
    )  # fmt: skip


def conv_ecg_small() -> Config:
    """``conv-ecg-tiny`` for large archives and hours: twice as wide, a block deeper.

    Augmentations and loss weights are those that were chosen for the small one; nobody has chosen
    them on a large archive.
    """
    changes = {
        "recipe": "conv-ecg-small",
        "encoder.width": 512,
        "encoder.depth": 4,
        "encoder.stem_width": 64,
        "ema.base": 0.996,
        "optimizer.warmup_steps": 2000,
        "train.steps": 50_000,
        "train.batch_size": 256,
        "train.checkpoint_every": 1000,
    }
    return conv_ecg_tiny().updated(changes)


def hjepa_ecg_small() -> Config:
    """H-JEPA on recordings: 50 ms, 200 ms and 1 s, about a wave, a complex and a beat."""
    narrow = PredictorConfig(width=192, depth=4, heads=6, mlp_width=768)
    return _with_levels(
        ijepa_ecg_small(), "hjepa-ecg-small", _level(4, 384, 2, narrow), _level(5, 384, 2, narrow)
    )


def hjepa_ecg_tiny() -> Config:
    """Minutes on two cores: 200 ms patches, cells of 1 s; as many operations as nepa-ecg-tiny."""
    narrow = PredictorConfig(width=64, depth=2, heads=4, mlp_width=256)
    tiny = _with_levels(ijepa_ecg_tiny(), "hjepa-ecg-tiny", _level(5, 128, 1, narrow))
    return tiny.updated({"train.steps": 5000})


def hjepa_ecg_leads_tiny() -> Config:
    """Minutes on two cores: 400 ms patches of each lead, their merge over the leads, and 2 s.

    12 × 25 tokens, then 1 × 25, then 1 × 5; each span of time is hidden in all leads.
    """
    narrow = PredictorConfig(width=64, depth=2, heads=4, mlp_width=256)
    tiny = _with_levels(
        ijepa_ecg_leads_tiny(),
        "hjepa-ecg-leads-tiny",
        _level((12, 1), 128, 1, narrow),
        _level((1, 5), 128, 1, narrow),
    )
    return tiny.updated({"encoder.depth": 1, "train.steps": 3100})


def ijepa_ecg_leads_tiny() -> Config:
    """The flat twin of ``hjepa-ecg-leads-tiny``: the same tokens, one level, as many operations."""
    tiny = ijepa_ecg_tiny()
    changes = {
        "recipe": "ijepa-ecg-leads-tiny",
        "input.tokens": "per_lead",
        "encoder.patch": 40,
        "encoder.depth": 2,
        "train.batch_size": 16,
        "train.steps": 2600,
    }
    return tiny.updated(changes)


def _with_levels(config: Config, name: str, *coarser: LevelConfig) -> Config:
    """Coarser levels above a recipe of one level, fused; its masks hide the same on all of them."""
    assert isinstance(config.objective, JepaConfig)
    levels = {"coarser": coarser, "fusion": True}
    objective = config.objective.model_copy(update=levels).model_dump()
    return config.updated({"recipe": name, "objective": objective})


def _level(
    stride: int | tuple[int, ...], width: int, depth: int, predictor: PredictorConfig
) -> LevelConfig:
    return LevelConfig(
        stride=stride, width=width, depth=depth, heads=width // 32, mlp_width=4 * width,
        predictor=predictor, masks=None,
    )  # fmt: skip
