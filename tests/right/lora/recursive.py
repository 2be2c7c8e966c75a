"""Dropout by hand and the factor in B, merging by addmm, a recursive walk over _modules, rows sorted by adapter."""

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        if rank < 1:
            raise ValueError(f"rank must be positive, got {rank}")
        super().__init__()
        self.linear = base
        for p in base.parameters():
            p.requires_grad = False
        out, width = base.weight.shape
        self.lora_A = nn.Parameter(base.weight.new_empty(rank, width).uniform_(-1, 1) / width**0.5)
        self.lora_B = nn.Parameter(base.weight.new_zeros(out, rank))
        self.factor, self.keep = alpha / rank, 1.0 - dropout
        self.register_buffer("merged", torch.tensor(False), persistent=False)

    def drop(self, x: Tensor) -> Tensor:
        if not self.training or self.keep == 1.0:
            return x
        if self.keep == 0.0:
            return x * 0
        return x * (torch.rand(x.shape, device=x.device) < self.keep) / self.keep

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.linear.weight.T
        if not self.merged:
            y = torch.add(y, self.drop(x) @ self.lora_A.T @ (self.factor * self.lora_B).T)
        return y if self.linear.bias is None else y + self.linear.bias

    def _toggle(self, on: bool) -> None:
        if bool(self.merged) != on:
            w, alpha = self.linear.weight, self.factor if on else -self.factor
            w.data = torch.addmm(w.data, self.lora_B.data, self.lora_A.data, alpha=alpha)
            self.merged = torch.tensor(on)

    def merge(self) -> None:
        self._toggle(True)

    def unmerge(self) -> None:
        self._toggle(False)


def _places(module, path=()):
    """(parent, attribute, dotted name, child) of everything outside adapted layers, again for each way to get there."""
    for last, child in module._modules.items():
        if child is not None:
            yield module, last, ".".join((*path, last)), child
            if not isinstance(child, LoRALinear):
                yield from _places(child, (*path, last))


def inject_lora(model, targets, *, rank, alpha, dropout=0.0):
    places = [place for place in _places(model) if isinstance(place[3], nn.Linear)]
    wanted = []
    for _, last, _, child in places:
        if last in targets and all(child is not w for w in wanted):
            wanted.append(child)
    if not wanted:
        raise ValueError("no layer matches " + ", ".join(targets))
    before = [(m, m.lora_A.requires_grad, m.lora_B.requires_grad) for m in model.modules() if type(m) is LoRALinear]
    for p in model.parameters():
        p.requires_grad = False
    for m, a, b in before:
        m.lora_A.requires_grad, m.lora_B.requires_grad = a, b
    done = []
    for linear in wanted:
        new = LoRALinear(linear, rank, alpha, dropout)
        new.train(linear.training)
        for parent, last, name, child in places:
            if child is linear:
                parent._modules[last] = new
                done.append(name)
    return done


def lora_state_dict(model):
    names = [name for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, LoRALinear)]
    whole, state = model.state_dict(), {}
    for name in names:
        for last in ("lora_A", "lora_B"):
            key = ".".join(filter(None, (name, last)))
            state[key] = whole[key]
    return state


def load_lora_state_dict(model, state):
    own = lora_state_dict(model)
    if missing := own.keys() - state.keys():
        raise KeyError(f"missing {sorted(missing)}")
    if unexpected := state.keys() - own.keys():
        raise KeyError(f"unexpected {sorted(unexpected)}")
    for key, tensor in own.items():
        tensor.data.copy_(state[key])


def batched_lora(x, weight, a, b, adapter_ids, *, scaling):
    order = adapter_ids.argsort()
    back = order.argsort()
    sorted_ids = adapter_ids[order]
    some = (sorted_ids >= 0).to(x.dtype)
    sorted_ids = torch.where(sorted_ids < 0, torch.zeros_like(sorted_ids), sorted_ids)
    low = torch.bmm(x[order], a.index_select(0, sorted_ids).transpose(1, 2))
    low = low * (some * scaling.index_select(0, sorted_ids)).view(-1, 1, 1)
    update = torch.bmm(low, b.index_select(0, sorted_ids).transpose(1, 2))
    return torch.matmul(x, weight.t()) + update[back]
