"""What errors about a configuration say to set, set as printed."""

from __future__ import annotations

from terminal import ECG, setting

IMAGE = "ijepa-image-tiny"  # masks of blocks, fixed sines and cosines
CONV = "conv-ecg-tiny"
CPC = "cpc-ecg-tiny"
JEPA, LEVELS, IMAGE_LEVELS = "ijepa-ecg-tiny", "hjepa-ecg-tiny", "hjepa-image-tiny"
TYPED = r"(?:set|use|write) (\S+=\S+?)[.,]?(?:\s|$)"

# fmt: off
# Keys, kinds, and what one section says of itself ---------------------------------------------

setting("config/resolve.py", "--set {}: is not", ECG, "train.seed", r"write (\S+=)VALUE", "{}3",
        instead=True)
setting("config/resolve.py", "--set ...={}: is no value", ECG, "optimizer.betas=[0.9",
        r"or (\[)a, b\]", "train.seed=3 optimizer.betas={}0.9,0.95]", instead=True)
setting("config/tree.py", "{}: is an unknown key", ECG, "encoder.dept=3", "mean '(.+)'",
        "encoder.{}=3", instead=True)
setting("config/tree.py", "write the whole list", JEPA, "objective.coarser.0.stride=5",
        r"list, (\S+=\[)", '{}{{"stride":5,"masks":null}}]', instead=True)
setting("config/run.py", "optimizer.warmup_steps {} is longer", ECG, "train.steps=4",
        r"set optimizer.warmup_steps to at most (\d+)", "optimizer.warmup_steps={}")
setting("config/inputs.py", "leads are {}", ECG, "input.leads=[II,i]", r"write (\S+)")
setting("config/run.py", "train.leave_out: names findings", IMAGE, "train.leave_out=[noise]", TYPED)
setting("config/inputs.py", "crop_scale {}", IMAGE, "input.crop_scale=[0,1]", "(<= 1)$",
        "input.crop_scale=[0.5,1]")
setting("config/inputs.py", "crop_aspect {}", IMAGE, "input.crop_aspect=[2,1]", r"write \[(.+)\]",
        "input.crop_aspect=[0.75,1.333]")
setting("config/masks.py", "{} [{}, {}]", IMAGE, "objective.masks.target_scale=[0,2]", "(<= 1)$",
        "objective.masks.target_scale=[0.15,0.2]")
setting("config/network.py", "width {} is not", ECG, "encoder.heads=5", r"heads (\d+)$",
        "encoder.heads={}")
setting("config/network.py", "encoder.patch {} does not", ECG, "encoder.patch=30",
        r"patch of (\d+)", "encoder.patch={}")
setting("config/network.py", "encoder.patch {} does not", ECG, "encoder.patch=30",
        r"input of (\d+)", "input.length={}")
setting("config/network.py", "an image has no seconds", "nepa-image-tiny",
        "encoder.positions.coordinates=seconds", TYPED)
setting("config/network.py", "{}a head of {}", ECG, "encoder.width=12", r"multiple of (\d+)",
        "encoder.width={}")
setting("config/network.py", "{} {} cannot hold", IMAGE, "encoder.width=18", r"multiple of (\d+)",
        "encoder.width={} encoder.heads=2")
setting("config/inputs.py", "drop_leads {}", JEPA, "input.drop_leads=0.3", TYPED)
setting("config/inputs.py", "drop_leads {}", JEPA, "input.drop_leads=0.3", r"or (\S+=\S+)$")
setting("config/network.py", "encoder.kind {} reads", CONV, "input.tokens=per_lead",
        r"set (.+), or")
setting("config/network.py", "objective.coarser: stride {}", "hjepa-ecg-leads-tiny",
        "objective.coarser.0.stride=[12,1,1]", "give one (number)", "objective.coarser.0.stride=1")
setting("config/network.py", "encoder.causal is true: patches", ECG, "input.tokens=per_lead",
        r"set (.+), or")
setting("nn/cross_pattern.py", "encoder.kind cross_pattern attends",
        JEPA, "encoder.kind=cross_pattern encoder.positions.kind=sincos", r"set (\S+)$")
setting("nn/cross_pattern.py", "encoder.kind cross_pattern has",
        "ijepa-ecg-leads-tiny", "encoder.kind=cross_pattern", r"set (.+) and a width")
setting("nn/register_tokens.py", "encoder.kind registers has",
        JEPA, "encoder.kind=registers encoder.cls=true", r"set (.+)$")
setting("nn/conv_tokenizer.py", "convolutions that cross",
        "ijepa-ecg-leads-tiny", "encoder.kind=conv_transformer encoder.stem_overlap=true",
        r"set (\S+)$")
setting("config/run.py", "objective.kind {} has", "ijepa-ecg-leads-tiny",
        """objective={"kind":"masked"}""", r"set (.+), or")
setting("nn/resnet.py", "encoder.patch {} is no power", CONV, "encoder.patch=25",
        r"patch of (\d+)", "encoder.patch={}")
setting("nn/resnet.py", "encoder.kernels", CONV, "encoder.kernels=[15,8]", r"as (\d+)$",
        "encoder.kernels=[15,{}]")
setting("nn/conv_tokenizer.py", "encoder.stem_overlap", ECG,
        "encoder.kind=conv_transformer encoder.stem_overlap=true", TYPED)
setting("nn/state_space.py", "encoder.step", ECG, "encoder.kind=s4d encoder.step=[0.1,0.01]",
        TYPED)
setting("config/registry.py", "kind is missing", ECG, "objective={}", r"one of .*(nepa)",
        "objective.kind={}")
setting("config/training.py", "neither base nor", ECG, "ema.base=null", r"base, .*\((0\.\d+)",
        "ema.base={}")
setting("config/training.py", "base {} and half_life", ECG, "ema.half_life=1e6",
        r"(half_life=null)", "ema.{}")
setting("config/training.py", "base {} and half_life", ECG, "ema.half_life=1e6",
        r"(base=null) \(and final=null", "ema.{} ema.final=null")
setting("config/training.py", "batch_size {} cannot", ECG, "train.micro_batches=64",
        r"at most (\d+)", "train.micro_batches={}")
setting("config/training.py", "stretches {} must", ECG, "train.stretches=[[5,10],[3,10]]",
        "leave (stretches) out", "", instead=True)
setting("config/training.py", "steps {} is not more", ECG,
        "train.stretches=[[5,10]] train.steps=5 optimizer.warmup_steps=1", "set (steps) to more",
        "train.{}=6")

# What sections say of each other --------------------------------------------------------------

setting("config/views.py", "objective.views.augmentation ecg", IMAGE, "objective.views.weight=1",
        TYPED)
setting("config/views.py", "objective.views.augmentation image", ECG,
        "objective.views.augmentation.kind=image", TYPED)
setting("config/views.py", "objective.views.augmentation.consistent", ECG,
        "objective.views.weight=1 input.signal=other", TYPED)
setting("config/views.py", "objective.views.augmentation.powerline", ECG,
        "objective.views.augmentation.powerline=0.1", TYPED)
setting("config/views.py", "objective.views.augmentation.size", "simclr-image-tiny",
        "objective.views.augmentation.size=20", TYPED)
setting("config/views.py", "objective.views.crop", ECG, "objective.views.crop=0.01", TYPED)
setting("objectives/cpc.py", "encoder.causal is false", CPC, "encoder.causal=false", TYPED)
setting("objectives/cpc.py", "encoder.positions sincos", CPC, "encoder.positions.kind=sincos",
        TYPED)
setting("objectives/cpc.py", "objective.steps {}", CPC, "objective.steps=60", TYPED)
setting("config/run.py", "{}: needs the statistics", JEPA, "train.micro_batches=2", TYPED)
setting("config/run.py", "optimizer.warmup_steps {}", ECG, "optimizer.warmup_steps=9000",
        r"than train.steps (\d+)", "optimizer.warmup_steps={}")
setting("objectives/nepa.py", "encoder.causal is false", ECG, "encoder.causal=false", TYPED)
setting("objectives/nepa.py", "encoder.cls is false", ECG, "encoder.cls=false", TYPED)
setting("objectives/nepa.py", "encoder.positions sincos", ECG, "encoder.positions.kind=sincos",
        TYPED)
setting("nn/resnet.py", "encoder.causal is true", CONV, "encoder.causal=true", TYPED)
setting("nn/resnet.py", "machine.recompute computes", CONV, "machine.recompute=true", TYPED)
setting("nn/resnet.py", "machine.recompute computes", CONV, "machine.recompute=true",
        r"or (\S+)$")
setting("objectives/masked.py", "encoder.causal is true", ECG,
        "objective.kind=masked encoder.cls=false", TYPED)
setting("objectives/masked.py", "encoder.cls is true", ECG,
        "objective.kind=masked encoder.causal=false", TYPED)
setting("objectives/masked.py", "ema is null", CONV, "ema=null", TYPED)
setting("objectives/masked.py", "objective.mask_span {}", CONV, "objective.mask_span=64",
        r"at most (\d+)", "objective.mask_span={}")
setting("objectives/masked.py", "objective.predictor.kernel {}", CONV,
        "objective.predictor.kernel=4", r"use (\d+)$", "objective.predictor.kernel={}")
setting("objectives/jepa/config.py", "encoder.causal is true", JEPA, "encoder.causal=true", TYPED)
setting("objectives/jepa/config.py", "encoder.cls is true", JEPA, "encoder.cls=true", TYPED)
setting("objectives/jepa/config.py", "objective.target teacher", JEPA, "ema=null", TYPED)
setting("objectives/jepa/config.py", "objective.target teacher", JEPA, "objective.target=student",
        TYPED)
setting("objectives/jepa/config.py", "target student collapses", JEPA,
        "objective.target=student ema=null objective.regularizer=null", TYPED)
setting("objectives/jepa/config.py", "target_norm {}", JEPA,
        "objective.target=student ema=null objective.target_norm=instance", "leave (target_norm)",
        "objective.{}=layer")
setting("objectives/jepa/config.py", "masks reference are for", IMAGE_LEVELS,
        "objective.masks.kind=reference objective.masks.target_scale=[0.1,0.1]", TYPED)
setting("objectives/jepa/config.py", "is null", IMAGE_LEVELS, "objective.coarser.0.masks=null",
        r"as (\S+)$")
setting("objectives/jepa/config.py", "is not read with masks", LEVELS,
        "objective.coarser.0.masks.targets=2", TYPED)
setting("objectives/jepa/config.py", "fusion and top_down", JEPA, "objective.top_down=true",
        r"set (\S+ \S+),")
setting("objectives/jepa/config.py", "masks context_blocks", IMAGE,
        "objective.masks.kind=context_blocks", TYPED)
setting("objectives/jepa/config.py", "{}.stride {}", LEVELS, "objective.coarser.0.stride=7",
        r"use (\d+)", "objective.coarser.0.stride={}")
setting("objectives/jepa/config.py", "objective.masks.leads some", IMAGE,
        "objective.masks.leads=some", TYPED)
setting("objectives/jepa/config.py", "{} has a grid of", LEVELS, "objective.coarser.0.stride=50",
        r"stride under (\d+)", "objective.coarser.0.stride=10")
setting("objectives/jepa/mask_shapes.py",
        ("objective.masks: the grid of", ", or objective.masks.least_context"), IMAGE,
        "objective.masks.least_context=60", r"or (\S+)$")
setting("objectives/jepa/mask_shapes.py", "objective.masks: the grid of", IMAGE,
        "objective.masks.targets=8", "(fewer) or smaller targets", "objective.masks.targets=3")
setting("objectives/jepa/mask_shapes.py",
        ("objective.masks: {} of {}", "objective.masks.least_block={}"), JEPA,
        "objective.masks.least_block=20", r"use (\S+),")
setting("objectives/jepa/mask_shapes.py", "objective.masks: {} of {}", JEPA,
        "objective.masks.context_share=[0.001,0.2]", r"another (\S+)", "{}=[0.1,0.2]")
setting("objectives/jepa/mask_shapes.py", "objective.masks: a stretch", LEVELS,
        "objective.coarser.0.stride=25", r"smaller (\S+)$", "{}=5")
setting("objectives/jepa/mask_shapes.py", "objective.masks: kind reference", JEPA,
        "objective.masks.kind=reference", TYPED)
setting("objectives/jepa/mask_shapes.py", "objective.masks: the grid {}", IMAGE,
        "objective.masks.kind=reference", r"smaller (min_keep)", "objective.masks.{}=2")
setting("objectives/jepa/mask_shapes.py", "objective.masks: a context", IMAGE,
        "objective.masks.kind=reference objective.masks.min_keep=5 "
        "objective.masks.context_scale=[0.01,0.02]", r"larger (context_scale)",
        "objective.masks.{}=[0.85,1.0]")
