"""The sum in float32 where the layer is narrower, a dataclass of settings, all adapters as one wide one with a mask."""

from __future__ import annotations

import contextlib
import dataclasses

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Settings:
    rank: int
    alpha: float
    dropout: float = 0.0

    def __post_init__(self):
        if self.rank < 1:
            raise ValueError(f"rank {self.rank} < 1")

    def scale(self):
        return self.alpha / self.rank


def up(x):
    return x if x.dtype is torch.float64 else x.float()


class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        settings = Settings(rank, alpha, dropout)
        super().__init__()
        self.settings, self.base_layer, self.merged = settings, base, False
        self.lora_dropout = nn.Identity() if not dropout else nn.Dropout(p=dropout)
        base.requires_grad_(False)
        options = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(nn.init.xavier_normal_(torch.empty(rank, base.weight.size(1), **options)))
        self.lora_B = nn.Parameter(torch.zeros(base.weight.size(0), rank, **options))

    def product(self):
        return up(self.lora_B) @ up(self.lora_A) * self.settings.scale()

    def forward(self, x, *args, **kwargs):
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        y = up(x) @ up(self.base_layer.weight).T
        y = y + self.settings.scale() * (up(self.lora_dropout(x)) @ up(self.lora_A).T @ up(self.lora_B).T)
        if self.base_layer.bias is not None:
            y = y + up(self.base_layer.bias)
        return y.to(x.dtype)

    def merge(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if not self.merged:
                w = self.base_layer.weight
                w.copy_((up(w) + self.product()).to(w.dtype))
                self.merged = True

    def unmerge(self):
        with torch.no_grad():
            if self.merged:
                w = self.base_layer.weight
                w.copy_((up(w) - self.product()).to(w.dtype))
                self.merged = False


def adapters(model):
    """Every name of every adapter's parameter."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, LoRALinear):
            yield from module.named_parameters(prefix, recurse=False)


def inject_lora(model, targets, *, rank, alpha, dropout=0.0):
    def inside(name):
        return any(name.startswith(f"{w}.") or not w for w in wrapped)

    modules = list(model.named_modules(remove_duplicate=False))
    wrapped = [name for name, module in modules if isinstance(module, LoRALinear)]
    linears = [(name, module) for name, module in modules if isinstance(module, nn.Linear) and not inside(name)]
    hit = {module for name, module in linears if name.split(".")[-1] in targets}
    if len(hit) == 0:
        raise ValueError(targets)
    settings = Settings(rank, alpha, dropout)
    trained = {p for _, p in adapters(model) if p.requires_grad}
    for p in set(model.parameters()) - trained:
        p.requires_grad = False
    new = {module: LoRALinear(module, **dataclasses.asdict(settings)).train(module.training) for module in hit}
    names = []
    for name, module in linears:
        if module in new:
            parent = model.get_submodule(name[: max(name.rfind("."), 0)])
            setattr(parent, name[name.rfind(".") + 1 :], new[module])
            names += [name]
    return names


def lora_state_dict(model):
    return {name: p.data for name, p in adapters(model)}


def load_lora_state_dict(model, state):
    slots = dict(adapters(model))
    for key in slots:
        state[key]
    for key in state:
        slots[key]
    for key, p in slots.items():
        p.data = state[key].to(p.data, copy=True)


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    N, R, _ = a.shape
    mine = adapter_ids.unsqueeze(1).eq(torch.arange(N, device=adapter_ids.device))  # (B, N)
    mask = torch.where(mine, scaling, torch.zeros_like(scaling)).repeat_interleave(R, dim=1)
    low = (x @ a.flatten(0, 1).T) * mask.unsqueeze(1)  # (B, T, N*R)
    return x @ weight.T + low @ b.permute(0, 2, 1).flatten(0, 1)
