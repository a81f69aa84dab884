"""One small training with an average of its student, under somebody else's trainer.

``latentcast watch --steps 4 docs/measured/trainers.py lightning`` (or ``accelerate``, or
``transformers``); with ``early`` after it the average moves with each micro-batch, not each step.
"""

import copy
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

MICRO, STEPS, MOMENTUM = 2, 6, 0.9


class Random(Dataset):
    def __len__(self):
        return 8 * MICRO * STEPS

    def __getitem__(self, index):
        return {"x": torch.randn(8, generator=torch.Generator().manual_seed(index))}


class Model(nn.Module):
    """A student with BatchNorm and dropout, its average, and a predictor."""

    def __init__(self):
        super().__init__()
        self.student = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 8)
        )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.predictor = nn.Linear(8, 8)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher(x)
        noisy = x + 0.1 * torch.randn_like(x)
        return {"loss": (self.predictor(self.student(noisy)) - target).square().mean()}

    def trained(self):
        return [p for p in self.parameters() if p.requires_grad]

    @torch.no_grad()
    def average(self):
        for s, t in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            t.lerp_(s, 1 - MOMENTUM)
        for s, t in zip(self.student.buffers(), self.teacher.buffers(), strict=True):
            t.copy_(s)


def schedule(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (n + 1) / 20)


def lightning(early):
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Model()
            self.averaged = 0

        def training_step(self, batch, index):
            return self.model(**batch)["loss"]

        def on_train_batch_end(self, *rest):
            if early or self.trainer.global_step > self.averaged:
                self.model.average()
            self.averaged = self.trainer.global_step

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.model.trained(), lr=1e-2)
            once = {"scheduler": schedule(optimizer), "interval": "step"}
            return {"optimizer": optimizer, "lr_scheduler": once}

    pl.seed_everything(0)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", accumulate_grad_batches=MICRO, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(Random(), batch_size=8, shuffle=True))


def accelerate(early):
    from accelerate import Accelerator

    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=MICRO)
    own = Model()
    optimizer = torch.optim.AdamW(own.trained(), lr=1e-2)
    model, optimizer, loader, scheduler = accelerator.prepare(
        own, optimizer, DataLoader(Random(), batch_size=8, shuffle=True), schedule(optimizer)
    )
    for batch in loader:
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if early or accelerator.sync_gradients:
            own.average()


def transformers(early):
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Average(TrainerCallback):
        def on_step_end(self, args, state, control, model, **rest):
            model.average()

        def on_substep_end(self, args, state, control, model, **rest):
            if early:
                model.average()

    model = Model()
    optimizer = torch.optim.AdamW(model.trained(), lr=1e-2)
    settings = TrainingArguments(
        "trainers", num_train_epochs=1, per_device_train_batch_size=8, use_cpu=True, seed=0,
        gradient_accumulation_steps=MICRO, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(
        model, settings, train_dataset=Random(), optimizers=(optimizer, schedule(optimizer)),
        callbacks=[Average()],
    ).train()  # fmt: skip


if __name__ == "__main__":
    {"lightning": lightning, "accelerate": accelerate, "transformers": transformers}[sys.argv[1]](
        "early" in sys.argv
    )
