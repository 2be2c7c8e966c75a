"""A subclass that shares its base's parameters, with the adapter as einsum; adapters chosen by a one-hot product."""

import torch
from torch import nn


class LoRALinear(nn.Linear):
    def __init__(self, base, rank, alpha, dropout=0.0):
        nn.Module.__init__(self)
        if rank <= 0:
            raise ValueError("rank must be positive")
        self.in_features, self.out_features = base.in_features, base.out_features
        self.register_parameter("weight", base.weight)
        self.register_parameter("bias", base.bias)
        for p in base.parameters():
            p.requires_grad_(False)
        kind = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_A = nn.Parameter(torch.nn.init.normal_(torch.empty((rank, base.in_features), **kind), std=0.02))
        self.lora_B = nn.Parameter(torch.zeros((base.out_features, rank), **kind))
        self.drop = nn.Dropout(dropout)
        self.s = alpha / rank
        self._merged = False

    @property
    def merged(self):
        return self._merged

    def forward(self, x):
        y = super().forward(x)
        if not self._merged:
            y = y + self.s * torch.einsum("...i,ri,or->...o", self.drop(x), self.lora_A, self.lora_B)
        return y

    def _shift(self, sign):
        with torch.no_grad():
            self.weight.add_(self.lora_B @ self.lora_A, alpha=sign * self.s)

    def merge(self):
        if not self._merged:
            self._shift(1)
        self._merged = True

    def unmerge(self):
        if self._merged:
            self._shift(-1)
        self._merged = False


def _pairs(model):
    return [(n, m) for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, LoRALinear)]


def inject_lora(model, targets, *, rank, alpha, dropout=0.0):
    linears = [
        (n, m)
        for n, m in model.named_modules(remove_duplicate=False)
        if isinstance(m, nn.Linear) and not isinstance(m, LoRALinear)
    ]
    matching = [m for n, m in linears if n.rsplit(".", 1)[-1] in targets]
    if not matching:
        raise ValueError(f"{targets} match nothing")
    trained = [p for _, m in _pairs(model) for p in (m.lora_A, m.lora_B) if p.requires_grad]
    model.requires_grad_(False)
    for p in trained:
        p.requires_grad_(True)
    new = {}
    for _, m in linears:
        if any(m is x for x in matching) and m not in new:
            new[m] = LoRALinear(m, rank, alpha, dropout).train(m.training)
    names = [n for n, m in linears if m in new]
    for n, m in linears:
        if m in new:
            parent, _, leaf = n.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new[m])
    return names


def lora_state_dict(model):
    return {f"{n}.{leaf}".lstrip("."): getattr(m, leaf) for n, m in _pairs(model) for leaf in ("lora_A", "lora_B")}


def load_lora_state_dict(model, state):
    own = lora_state_dict(model)
    for key in [*own, *state]:
        if key not in own or key not in state:
            raise KeyError(f"{key} is {'unexpected' if key in state else 'missing'}")
    with torch.no_grad():
        for key, p in own.items():
            p.copy_(state[key])


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    choice = (adapter_ids[:, None] == torch.arange(len(a), device=x.device)).to(x.dtype)  # (B, N)
    low = torch.einsum("bti,nri->bntr", x, a)
    return x @ weight.T + torch.einsum("bntr,nor,bn,n->bto", low, b, choice, scaling)
