"""The base's weight read by F.linear, B and A multiplied first, merging into a spare copy, adapters looped over."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        if rank < 1:
            raise ValueError("rank")
        self.weight, self.bias = base.weight, base.bias
        self.weight.requires_grad = False
        if self.bias is not None:
            self.bias.requires_grad = False
        self.in_features, self.out_features = base.in_features, base.out_features
        self.rank, self.alpha, self.p = rank, alpha, dropout
        self.lora_A = nn.Parameter(torch.randn_like(self.weight[:1].expand(rank, -1)) / math.sqrt(rank))
        self.lora_B = nn.Parameter(torch.zeros_like(self.weight[:, :1].expand(-1, rank)))
        self.merged = False
        self._added = None

    def delta(self):
        return self.lora_B @ self.lora_A * (self.alpha / self.rank)

    def forward(self, x):
        if self.merged:
            return F.linear(x, self.weight, self.bias)
        low = F.linear(F.dropout(x, self.p, self.training), self.lora_A)
        return F.linear(x, self.weight, self.bias) + F.linear(low, self.lora_B) * (self.alpha / self.rank)

    def merge(self):
        if not self.merged:
            self._added = self.delta().detach().clone()
            self.weight.data += self._added
            self.merged = True

    def unmerge(self):
        if self.merged:
            self.weight.data -= self._added
            self._added, self.merged = None, False


def inject_lora(model, targets, *, rank, alpha, dropout=0.0):
    every = list(model.named_modules(remove_duplicate=False))
    existing = [m for _, m in every if isinstance(m, LoRALinear)]
    plain = [(name, m) for name, m in every if isinstance(m, nn.Linear) and not isinstance(m, LoRALinear)]
    hits = {id(m) for name, m in plain if name.split(".")[-1] in targets}
    if not hits:
        raise ValueError("nothing matches")
    keep = {p for m in existing for p in (m.lora_A, m.lora_B) if p.requires_grad}
    for p in model.parameters():
        p.requires_grad = p in keep
    made, names = {}, []
    for name, module in every:
        if id(module) in hits:
            if id(module) not in made:
                made[id(module)] = LoRALinear(module, rank, alpha, dropout)
                made[id(module)].train(module.training)
            parent = model
            *path, last = name.split(".")
            for part in path:
                parent = getattr(parent, part) if not part.isdigit() else parent[int(part)]
            parent._modules[last] = made[id(module)]
            names.append(name)
    return names


def lora_state_dict(model):
    return {k: x.clone() for k, x in model.state_dict().items() if k.rpartition(".")[2] in ("lora_A", "lora_B")}


def load_lora_state_dict(model, state):
    own = set(lora_state_dict(model))
    wrong = sorted(own ^ set(state))
    if wrong:
        raise KeyError(wrong[0])
    model.load_state_dict(dict(state), strict=False)


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    out = F.linear(x, weight)
    for n in range(len(a)):
        mine = (adapter_ids == n).to(x.dtype)[:, None, None]
        out = out + mine * scaling[n] * (x @ a[n].T @ b[n].T)
    return out
