"""Known defects of masks, schedules and models, measured in the code that has them.

``python known_defects.py ijepa H-JEPA MY_ECG/nepa``, and for the ranks
``torchrun --nproc-per-node 2 known_defects.py ijepa``. The folders are checkouts of
facebookresearch/ijepa at 52c1ae9, jonwiggins/H-JEPA at eb995a0 and YasserElj/MY_ECG at d28dc90.
"""

import logging
import os
import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from latentcast.verification.foreign import (
    verify_initial,
    verify_masks,
    verify_nepa,
    verify_readout,
    verify_regularizer,
    verify_schedule,
    watched,
)

logging.disable(logging.WARNING)  # a line for each patch that does not fit
PUBLISHED = {
    "enc_mask_scale": (0.85, 1.0), "pred_mask_scale": (0.15, 0.2), "aspect_ratio": (0.75, 1.5),
    "nenc": 1, "npred": 4, "min_keep": 10,
}  # fmt: skip


def show(title, found):
    print(f"\n{title}\n{found}", flush=True)


def seeded(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def ijepa(folder):
    sys.path.insert(0, folder)
    from src.masks.multiblock import MaskCollator

    def sampler(draw, batch, side=14, **settings):
        """The draw's image of a batch; one collator makes many batches, so its counter is set."""
        seeded(draw // batch)
        made = MaskCollator((16 * side, 16 * side), 16, **{**PUBLISHED, **settings})
        made._itr_counter.value = draw // batch - 1
        _, context, targets = made([(torch.zeros(1), 0)] * batch)
        return context[0][draw % batch], [target[draw % batch] for target in targets]

    def look(title, batch, draws, side=14, seconds=300.0, **settings):
        found = verify_masks(partial(sampler, batch=batch, side=side, **settings), side**2, draws,
                             seconds, size=(side, side))  # fmt: skip
        show(title, found)

    look("M1, M2, scale with aspect: one image a batch", 1, 200)
    look("M3: 16 images a batch", 16, 96)
    look("M4: targets of 0.5 to 0.6", 1, 50, pred_mask_scale=(0.5, 0.6))
    look("M5: a grid of 4 × 4", 1, 20, side=4, seconds=20.0)


def ranks(folder):
    """As in train.py: seed 0 on each rank, a DistributedSampler, the collator in the loader."""
    sys.path.insert(0, folder)
    from src.masks.multiblock import MaskCollator

    rank = int(os.environ["RANK"])
    seeded(0)
    images = TensorDataset(torch.randn(64, 3), torch.zeros(64))
    sampler = DistributedSampler(images, num_replicas=2, rank=rank)
    loader = DataLoader(images, 4, sampler=sampler, collate_fn=MaskCollator((224, 224), 16,
                        **PUBLISHED), num_workers=1)  # fmt: skip
    net = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with watched(steps=4) as watch:
        for (values, _), _, _ in loader:
            net(values).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    if not rank:
        show("M6: two ranks", watch.verified)


def hjepa(folder):
    import timm_stand_in  # noqa: F401

    sys.path.insert(0, folder)
    from src.masks.hierarchical import HierarchicalMaskGenerator
    from src.models.hjepa import create_hjepa

    masks = HierarchicalMaskGenerator(224, 16, 3, 4, base_scale=(0.15, 0.2))

    def level(draw, number):
        seeded(draw)
        made = masks(1)[f"level_{number}"]
        return (made["context"][0].nonzero().flatten(),
                [target.nonzero().flatten() for target in made["targets"][0]])  # fmt: skip

    for number in (0, 2):
        show(f"D16: level {number}, default.yaml", verify_masks(partial(level, number=number), 196,
             200, size=(14, 14)))  # fmt: skip

    torch.manual_seed(0)
    model = create_hjepa("vit_tiny_patch16_112", 112, 192, predictor_depth=1,
                         predictor_num_heads=3, num_hierarchies=2)  # fmt: skip
    queried = []
    model.predictor.register_forward_pre_hook(
        lambda module, args, kwargs: queried.append(kwargs["mask_indices"]), with_kwargs=True
    )
    small = HierarchicalMaskGenerator(112, 16, num_hierarchies=2)

    def predicted(draw):
        """What the predictor is asked for in the second image of a batch of two."""
        seeded(draw)
        mask = small(2)["level_0"]["targets"].any(1)
        with torch.no_grad():
            model(torch.zeros(2, 3, 112, 112), mask.float())
        return (~mask[1]).nonzero().flatten(), [queried[-1][1]]

    show("D11: what the predictor is asked for", verify_masks(predicted, 49, 40))

    from src.losses.sigreg import SIGRegLoss

    for method in ("reference_points", "char_function"):
        term = SIGRegLoss(num_slices=256, test_method=method)
        show(f"D8: SIGReg, {method}",
             verify_regularizer(lambda x, term=term: term(x, x)["sigreg_loss"]))  # fmt: skip

    target, student = model.target_encoder, model.context_encoder
    target.ema_warmup_steps, total = 30 * 10, 1000  # 30 epochs of warm-up in 100, 10 steps each
    show("D4: the momentum of update_from_context_encoder, warm-up 300 of 1,000 steps",
         verify_schedule(partial(target.update_from_context_encoder, student),
                         lambda n: 0.996 + 0.004 * max(0, n - 300) / 700, total))  # fmt: skip


def nepa_ecg(folder):
    from hf_stand_in import configured, imported

    folder = Path(folder)
    code, config, run = imported(
        folder, "models.vit_nepa_ecg.modeling_vit_nepa_ecg",
        "models.vit_nepa_ecg.configuration_vit_nepa_ecg", "run_nepa_ecg",
    )  # fmt: skip
    settings = configured(config.ViTNepaECGConfig, folder / "configs/pretrain/nepa-small-ecg")
    settings.num_hidden_layers = 2
    torch.manual_seed(0)
    model = code.ViTNepaECGForPreTraining(settings)
    show("B16: initializer_range of the configuration, LayerScale and norms as in NEPA",
         verify_initial(model, {"lambda1": (1e-5, 0.0), "norm.*weight": (1.0, 0.0),
                                "bias": (0.0, 0.0),
                                "": (0.0, settings.initializer_range)}))  # fmt: skip

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, values):
            out = self.model.vit_nepa(values)
            return out.input_embedding, out.last_hidden_state

    patches = model.vit_nepa.embeddings.patch_embeddings
    checked, signals = patches.forward, torch.randn(2, 12, 5000)
    show("B10: as it stands", verify_nepa(Both(), signals, shorter=True, places=3))
    # The length is checked by a literal False; its own flag lets shorter signals through.
    patches.forward = lambda values, **rest: checked(values, True)
    show("B10: with its own flag for other lengths",
         verify_nepa(Both(), signals, shorter=True, places=3))  # fmt: skip
    patches.forward = checked

    head = code.ViTNepaECGForImageClassification(settings)
    valid = torch.arange(5000) < 3000
    for pooled in (False, True):
        head.add_pooling_layer = pooled
        show(f"B9, B14: pooling {pooled}",
             verify_readout(lambda v: head(v).logits, signals, 10, valid))  # fmt: skip

    own = run.EnhancedTrainer.__new__(run.EnhancedTrainer)
    own.model, own.embed_lr, own.optimizer = model, 1e-4, None
    own.args = SimpleNamespace(weight_decay=0.05, learning_rate=1e-3)
    own.get_optimizer_cls_and_kwargs = lambda args: (torch.optim.AdamW, {})
    optimizer = own.create_optimizer()
    with watched(steps=2) as watch:
        for _ in range(2):
            values = torch.randn(2, 12, 5000)
            embeddings, outputs = Both()(values)
            target = embeddings[:, 1:].detach()
            (-nn.functional.cosine_similarity(outputs[:, :-1], target, dim=-1).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    show("B18: embed_lr given", watch.verified)


if "RANK" in os.environ:
    ranks(sys.argv[1])
else:
    for measure, folder in zip((ijepa, hjepa, nepa_ecg), sys.argv[1:], strict=True):
        if folder != "-":
            measure(folder)
