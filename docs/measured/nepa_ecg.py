"""The claims of NEPA_ECG_VERIFICATION.md, measured: ``python nepa_ecg.py MY_ECG/nepa nepa``.

The folders are checkouts of YasserElj/MY_ECG at d28dc90 and of SihanXU/nepa at 15ea494.
"""

import math
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from hf_stand_in import configured, imported
from torch import nn

from latentcast.verification.foreign import verify_nepa

ours, original = Path(sys.argv[1]), Path(sys.argv[2])
torch.manual_seed(0)
ECG, ECGConfig, run = imported(
    ours, "models.vit_nepa_ecg.modeling_vit_nepa_ecg",
    "models.vit_nepa_ecg.configuration_vit_nepa_ecg", "run_nepa_ecg",
)  # fmt: skip
shared = sys.modules["models.vit_nepa.modeling_vit_nepa"]
NEPA, NEPAConfig = imported(
    original, "models.vit_nepa.modeling_vit_nepa", "models.vit_nepa.configuration_vit_nepa"
)
settings = configured(ECGConfig.ViTNepaECGConfig, ours / "configs/pretrain/nepa-small-ecg")
pretrained = configured(
    NEPAConfig.ViTNepaConfig, original / "configs/pretrain/nepa-base-patch14-224"
)
ecg, nepa = ECG.ViTNepaECGForPreTraining(settings), NEPA.ViTNepaForPreTraining(pretrained)


def say(claim, what, **numbers):
    values = (f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
    print(f"{claim:>3}  {what}: {', '.join(values)}")


def named(model, part):
    return {name: p for name, p in model.named_parameters() if part in name}


def fastest(rope, values):
    """Radians between neighbouring patches at the highest frequency."""
    cos, sin = rope(values)
    angle = torch.atan2(sin, cos).double()
    return float(((angle[1] - angle[0]) % (2 * math.pi)).max())


# A1 CLS
for name, model in (("NEPA-ECG", ecg), ("NEPA", nepa)):
    cls = model.vit_nepa.embeddings.cls_token
    say("A1", f"CLS of {name}", deviation=float(cls.std()), norm=float(cls.norm()))
values = torch.randn(2, 12, 5000)
tokens, clean = ecg.vit_nepa.embeddings(values)
say("A1", "NEPA-ECG", tokens=tokens.shape[1], patch_norm=float(clean[:, 1:].norm(dim=-1).mean()))

# A2 positions
rope = ecg.vit_nepa.rope_embeddings.eval()
centres = ECG.get_1d_patch_coordinates(200, torch.float64, torch.device("cpu"))
say("A2", "coordinates", first=float(centres[0]), last=float(centres[-1]))
for length in (1250, 2500, 5000):
    radians = fastest(rope, torch.zeros(1, 12, length))
    say("A2", f"{length} samples", radians_a_patch=radians)
say(
    "A2",
    "NEPA, 224 pixels",
    radians_a_patch=fastest(nepa.vit_nepa.rope_embeddings.eval(), torch.zeros(1, 3, 224, 224)),
)
rope.train()
drawn = [fastest(rope, torch.zeros(1, 12, 5000)) for _ in range(500)]
say("A2", "in training, 500 draws", least=min(drawn), most=max(drawn))


# A3, A4, A8 by the probes for other people's code, LayerScale at 1 so that a leak has a size
class Both(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, values):
        out = self.model.vit_nepa(values)
        return out.input_embedding, out.last_hidden_state


def loud(model):
    for scale in named(model, "lambda1").values():
        nn.init.ones_(scale)
    return model.double().eval()


for attention in ("sdpa",):
    settings._attn_implementation = attention
    print(f" A3, A4, A8, {attention}, LayerScale 1, float64")
    print(verify_nepa(Both(loud(ecg)), values.double(), shared.prediction_loss, places=6))
ecg.float()

# A5, A6
width = settings.hidden_size // settings.num_attention_heads
attention = ecg.vit_nepa.encoder.layer[0].attention.attention
q = attention.q_norm(7 * torch.randn(1, 6, 201, width) + 3)
say(
    "A5",
    "queries after the norm",
    mean=float(q.mean(-1).abs().max()),
    deviation=float(q.std(-1, correction=0).mean()),
    parameters=len(list(attention.q_norm.parameters())),
)
fresh = ECG.ViTNepaECGForPreTraining(settings)
scales = named(fresh, "lambda1").values()
say(
    "A6",
    "LayerScale",
    parameters=len(scales),
    values={float(v) for p in scales for v in p.unique()},
)

# A7 the encoders, same weights and positions
encoder, reference = loud(ecg).vit_nepa.encoder, None
pretrained.__dict__.update(
    {
        k: getattr(settings, k)
        for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
)
reference = loud(NEPA.ViTNepaModel(pretrained)).encoder
reference.load_state_dict(encoder.state_dict())
x, place = torch.randn(2, 201, 384, dtype=torch.float64), rope.eval()(values.double())
with torch.no_grad():
    a, b = (e(x, position_embeddings=place).last_hidden_state for e in (encoder, reference))
say(
    "A7",
    "encoders, same weights",
    largest_difference=float((a - b).abs().max()),
    output=float(b.abs().max()),
)

# A8 the loss beside the original's
for size in (1.0, 1e-9, 1e-11):
    h, z = torch.randn(2, 4, 201, 384, dtype=torch.float64)
    own, other = (float(m.prediction_loss(size * h, z)) for m in (shared, NEPA))
    say("A8", f"embeddings × {size:g}", NEPA_ECG=own, NEPA=other)

# A9 patches
conv = ecg.vit_nepa.embeddings.patch_embeddings.projection
cut = values.double()[..., :5000].unfold(2, 25, 25)
plain = torch.einsum("bcnk,dck->bnd", cut, conv.weight) + conv.bias
patches = ecg.vit_nepa.embeddings.patch_embeddings
say(
    "A9",
    "against a plain sum",
    largest_difference=float((patches(values.double()) - plain).abs().max()),
)
longer = torch.cat([values.double(), torch.full((2, 12, 24), 9.0)], -1)
say("A9", "24 samples more", changed=bool((patches(longer, True) - plain).abs().max() > 1e-9))

# A10 data
with tempfile.TemporaryDirectory() as folder:
    file, rows = (
        Path(folder) / "ecg.npy",
        np.random.default_rng(0).normal(size=(40, 5000, 12)).astype(np.float32),
    )
    rows[20, 17, 3] = np.nan
    np.save(file, rows)
    mean, std = run.compute_normalization_stats(str(file), np.arange(40))
    data = run.ECGDataset(str(file), mean, std)
    whole = np.clip((rows[0].T - mean.reshape(-1, 1)) / std.reshape(-1, 1), -5, 5)
    gaps = [float(np.abs(data[0]["pixel_values"].numpy() - whole).max()) for _ in range(50)]
    say("A10", "50 crops of one 10 s record", that_are_the_whole_record=sum(g < 1e-4 for g in gaps))
    say(
        "A10",
        "a record with one NaN",
        NaN_at_the_network=int(data[20]["pixel_values"].isnan().sum()),
    )
    short = run.ECGDataset(str(file), mean, std, crop_size=6000)[0]["pixel_values"]
    say("A10", "5,000 samples, crop of 6,000", zeros_at_the_end=int((short[0, 5000:] == 0).sum()))
    np.save(file, rows[:2, :10].copy())
    try:
        print(run.ECGDataset(str(file), mean, std, crop_size=10)[0]["pixel_values"].shape)
    except ValueError as problem:
        say("A10", "10 samples of 12 leads", error=problem)
saved = re.findall(
    r"np\.save|savez|\.to_json|mean.*save|save.*mean", (ours / "run_nepa_ecg.py").read_text()
)
say("A10", "run_nepa_ecg.py", lines_that_save_the_statistics=len(saved))

# A11 where the table's values stand
texts = {
    p: p.read_text(errors="replace")
    for p in ours.rglob("*")
    if p.suffix in (".py", ".sh", ".json", ".yml", ".yaml")
}
for key in ("learning_rate", "warmup_steps", "weight_decay", "adam_beta2"):
    found = [
        f"{p.relative_to(ours)}"
        for p, text in texts.items()
        if re.search(rf"{key}\W{{1,4}}[\d.]", text) and "ecg" in str(p)
    ]
    say("A11", f"values of {key} in the code of NEPA-ECG", files=len(found))
script = (original / "scripts/pretrain/nepa_b.sh").read_text()
say(
    "A11",
    "NEPA, scripts/pretrain/nepa_b.sh",
    **{
        k: re.search(rf"{k}[ =](\S+)", script)[1]
        for k in (
            "BASE_LEARNING_RATE",
            "TOTAL_BATCH_SIZE",
            "warmup_ratio",
            "weight_decay",
            "adam_beta2",
        )
    },
)

# A12
say(
    "A12",
    "NEPA-ECG",
    parameters=sum(p.numel() for p in ecg.parameters()),
    **{
        k: getattr(settings, k)
        for k in (
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "patch_size",
            "signal_length",
            "num_channels",
        )
    },
)

# A13
NORMS = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def decayed(model, patterns):
    exempt = {
        f"{n}.{p}"
        for n, m in model.named_modules()
        if isinstance(m, nn.LayerNorm)
        for p, _ in m.named_parameters()
    }
    return [
        n
        for n, _ in model.named_parameters()
        if n not in exempt and not any(re.search(p, n.lower()) for p in patterns)
    ]


for which, patterns in (
    ("NEPA", [*NORMS, "layer_scale"]),
    ("NEPA-ECG", NORMS),
    ("NEPA-ECG with --embed_lr", []),
):
    names = decayed(fresh, patterns)
    say(
        "A13",
        f"decayed by {which}",
        **{k: sum(k in n for n in names) for k in ("bias", "lambda1", "cls_token")},
    )
for file in ("run_nepa.py", "run_nepa_ecg.py"):
    say(
        "A13",
        file,
        lines_on_the_average_of_weights=len(
            re.findall(r"ema_", ((original if file == "run_nepa.py" else ours) / file).read_text())
        ),
    )
head = ECG.ViTNepaECGForImageClassification(
    configured(ECGConfig.ViTNepaECGConfig, ours / "configs/pretrain/nepa-small-ecg")
)
head.add_pooling_layer = False
head.eval()
with torch.no_grad():
    logits = head(torch.randn(8, 12, 5000)).logits
say(
    "A13",
    "logits without pooling, 8 signals",
    largest_difference=float((logits - logits[:1]).abs().max()),
)
try:
    head(torch.randn(1, 12, 1250))
except ValueError as problem:
    say("A13", "1,250 samples, as the finetuning script crops", error=problem)
