"""W and A as one matrix for one product with x, the weight saved while merged, rows added adapter by adapter."""

import torch
import torch.nn.functional as F
from torch import nn


class LoRALinear(nn.Module):
    def __init__(self, base, rank, alpha, dropout=0.0):
        super().__init__()
        if not rank >= 1:
            raise ValueError("rank has to be at least one")
        base.weight.requires_grad_(False)
        if base.bias is not None:
            base.bias.requires_grad_(False)
        self.inner = nn.ModuleList([base])
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features).to(base.weight))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank).to(base.weight))
        self.rank, self.alpha, self.p = rank, alpha, dropout
        self.saved = None

    @property
    def merged(self):
        return self.saved is not None

    def forward(self, x):
        (base,) = self.inner
        if self.merged:
            return base(x)
        if self.training and self.p:
            y, low = base(x), F.linear(F.dropout(x, self.p), self.lora_A)
        else:
            y, low = F.linear(x, torch.cat([base.weight, self.lora_A])).split([base.out_features, self.rank], dim=-1)
            y = y if base.bias is None else y + base.bias
        return y.add(F.linear(low, self.lora_B).mul(self.alpha).div(self.rank))

    def merge(self):
        if self.merged:
            return
        weight = self.inner[0].weight
        with torch.no_grad():
            self.saved = weight.clone()
            weight.add_(torch.einsum("or,ri->oi", self.lora_B, self.lora_A).mul_(self.alpha / self.rank))

    def unmerge(self):
        if self.merged:
            with torch.no_grad():
                self.inner[0].weight.copy_(self.saved)
            self.saved = None


def inject_lora(model, targets, *, rank, alpha, dropout=0.0):
    targets = set(targets)
    adapted, todo, sites = [], [("", model)], {}
    while todo:
        path, parent = todo.pop()
        for last, child in parent._modules.items():
            name = f"{path}.{last}" if path else last
            if isinstance(child, LoRALinear):
                adapted.append(child)
            elif isinstance(child, nn.Linear):
                sites.setdefault(child, []).append((name, parent, last))
            elif child is not None:
                todo.append((name, child))
    sites = {linear: at for linear, at in sites.items() if targets & {last for _, _, last in at}}
    if not sites:
        raise ValueError(f"none of {sorted(targets)} is a linear layer here")
    spared = [p for layer in adapted for p in (layer.lora_A, layer.lora_B) if p.requires_grad]
    model.requires_grad_(False)
    [p.requires_grad_() for p in spared]
    names = []
    for linear, at in sites.items():
        layer = LoRALinear(linear, rank, alpha, dropout)
        layer.training = linear.training
        for name, parent, last in at:
            parent.register_module(last, layer)
            names.append(name)
    return sorted(names)


def lora_state_dict(model):
    own = {id(p) for m in model.modules() if isinstance(m, LoRALinear) for p in (m.lora_A, m.lora_B)}
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False) if id(p) in own}


def load_lora_state_dict(model, state):
    expected = lora_state_dict(model)
    for key in {**expected, **state}:
        if key not in expected:
            raise KeyError(key)
        if key not in state:
            raise KeyError(key)
    result = model.load_state_dict(state, strict=False)
    assert not result.unexpected_keys


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    out = torch.einsum("bti,oi->bto", x, weight)
    for n, (down, up, factor) in enumerate(zip(a.unbind(), b.unbind(), scaling.unbind(), strict=True)):
        rows = torch.nonzero(adapter_ids == n).flatten()
        out = out.index_add(0, rows, factor * F.linear(F.linear(x[rows], down), up))
    return out
