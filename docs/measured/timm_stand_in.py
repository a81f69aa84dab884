"""What H-JEPA imports of timm, einops and tqdm, so that its trainer runs without them.

The vision transformer has timm's names and two blocks, which is enough for what is measured here.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


class DropPath(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.drop_prob = rate

    def forward(self, x):
        if not (self.training and self.drop_prob):
            return x
        keep = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_prob
        return x * keep / (1 - self.drop_prob)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.num_heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads, rate):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.drop_path1, self.drop_path2 = (
            Attention(width, heads),
            DropPath(rate),
            DropPath(rate),
        )
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, size, patch, width):
        super().__init__()
        self.patch_size, self.num_patches = (patch, patch), (size // patch) ** 2
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    def __init__(self, width, heads, depth, size, patch, rate):
        super().__init__()
        self.embed_dim = width
        self.patch_embed = PatchEmbed(size, patch, width)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(
            0.02 * torch.randn(1, 1 + self.patch_embed.num_patches, width)
        )
        self.pos_drop = nn.Dropout(0.0)
        rates = torch.linspace(0, rate, depth).tolist()
        self.blocks = nn.Sequential(*(Block(width, heads, r) for r in rates))
        self.norm = nn.LayerNorm(width, eps=1e-6)


def create_model(name, pretrained=False, img_size=224, drop_path_rate=0.0, depth=2):
    width, heads = next(value for key, value in SIZES.items() if key in name)
    patch = int(name.partition("patch")[2].partition("_")[0])
    return VisionTransformer(width, heads, depth, img_size, patch, drop_path_rate)


def rearrange(x, how):
    if "d" in how:
        return x.transpose(1, 2)
    return x[:, 0] if how.startswith("b 1") else x[:, None]


def repeat(x, how, **sizes):
    return x.expand(*(sizes.get(name, -1) for name in how.split("->")[1].split()))


class tqdm(list):
    def __init__(self, items, **rest):
        super().__init__(items)

    def set_postfix(self, *rest, **more):
        pass


for name, contents in {"timm": {"create_model": create_model}, "tqdm": {"tqdm": tqdm},
                       "einops": {"rearrange": rearrange, "repeat": repeat}}.items():  # fmt: skip
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__spec__ = ModuleSpec(name, None)  # torch looks for it
    sys.modules[name].__dict__.update(contents)
