"""LoRA: a linear layer with a low-rank adapter, its merge, its injection into a model, and many adapters in a batch.

Choices. The adapter takes dtype and device from the base, so that a wrapped layer is where the model is. Merging adds
to the base's weight and unmerging subtracts, instead of keeping a copy: a copy costs the memory that LoRA is there to
save, and it would undo weights that were loaded in the meantime. `inject_lora` goes by object, not by name, since one
module may stand under two.

Follow-up questions

Why is B zero and A random, and not both? With B = 0 the wrapped model is the model, so training starts where it was.
Were A zero too, both gradients would vanish: dA = B^T(...) and dB = (...)A^T. Either may be the zero one.

Why alpha / rank? With it the size of the update hardly depends on the rank, so that a learning rate found at one rank
serves at another. rsLoRA (Kalajdzievski 2023) argues for alpha / sqrt(rank), which keeps it stable for large ranks.

What does LoRA save? Not the forward, which costs a little more until it is merged. It saves the optimizer's state and
the gradients of the frozen weights, and the copies: an adapter is R (I + O) numbers where the layer has I O.

When is merging wrong? When requests of one batch have different adapters, when the base is quantised (the sum must be
rounded again), or in bfloat16 when the update is smaller than half an ulp of the weight: then it is lost.

How does serving many adapters stay fast? The base product is shared, and the adapters' products are gathered: batched
small products here, one kernel in Punica (SGMV), sorted by adapter so that each is read once.
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import nn


class LoRALinear(nn.Module):
    """base(x) + (alpha / rank) dropout(x) A^T B^T around a frozen nn.Linear (Hu et al. 2021, equation 3).

    lora_A (R, I) starts random, lora_B (O, R) zero, in the base's dtype and on its device. The base's parameters stay
    the same objects and are frozen. dropout acts on the adapter's input, in training only. Raises ValueError if
    rank < 1.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}; it must be at least 1")
        self.base = base.requires_grad_(False)
        like = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.scaling = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.merged = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., I) -> (..., O)."""
        out = self.base(x)
        if self.merged:
            return out
        return out + self.scaling * (self.dropout(x) @ self.lora_A.mT @ self.lora_B.mT)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds (alpha / rank) B A to the base's weight; a second call does nothing."""
        if not self.merged:
            self.base.weight += self.scaling * (self.lora_B @ self.lora_A)
            self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Takes it out again; a second call does nothing."""
        if self.merged:
            self.base.weight -= self.scaling * (self.lora_B @ self.lora_A)
            self.merged = False


def inject_lora(
    model: nn.Module, targets: Collection[str], *, rank: int, alpha: float, dropout: float = 0.0
) -> list[str]:
    """Wraps every nn.Linear whose last name component is in targets, and freezes all else; returns the names replaced.

    A module under several names is wrapped once and replaced under each, if any of them matches; all are returned. What
    is wrapped already stays as it is, trainable as it was. Raises ValueError, with nothing changed, if nothing matches.
    """
    wrapped = [module for module in model.modules() if isinstance(module, LoRALinear)]
    inner = {id(module.base) for module in wrapped}
    names: dict[nn.Linear, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear) and id(module) not in inner:
            names.setdefault(module, []).append(name)
    chosen = {linear: at for linear, at in names.items() if any(n.rpartition(".")[2] in targets for n in at)}
    if not chosen:
        raise ValueError(f"no nn.Linear is named one of {sorted(targets)}")
    kept = {id(p) for module in wrapped for p in (module.lora_A, module.lora_B) if p.requires_grad}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    for linear, at in chosen.items():
        adapter = LoRALinear(linear, rank, alpha, dropout).train(linear.training)
        for name in at:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, adapter)
    return [name for at in chosen.values() for name in at]


def lora_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' tensors alone, keyed as in model.state_dict()."""
    prefixes = [name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, LoRALinear)]
    keys = {f"{prefix}.{last}".lstrip(".") for prefix in prefixes for last in ("lora_A", "lora_B")}
    return {key: tensor for key, tensor in model.state_dict().items() if key in keys}


def load_lora_state_dict(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copies the adapters' tensors in. Raises KeyError naming a missing or unexpected key, with nothing changed."""
    own = lora_state_dict(model)
    for key in own:
        if key not in state:
            raise KeyError(f"missing: {key}")
    for key in state:
        if key not in own:
            raise KeyError(f"unexpected: {key}")
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])


def batched_lora(
    x: torch.Tensor,
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    adapter_ids: torch.Tensor,
    *,
    scaling: torch.Tensor,
) -> torch.Tensor:
    """x W^T + scaling[n] x A_n^T B_n^T, each row of the batch with its own adapter n (Chen et al. 2023, Punica).

    x (B, T, I), weight (O, I), a (N, R, I), b (N, O, R), scaling (N,), one floating dtype. adapter_ids (B,) int, -1: no
    adapter. Returns (B, T, O). The number of operations does not depend on B.
    """
    index = adapter_ids.clamp(min=0)
    update = x @ a[index].mT @ b[index].mT * scaling[index, None, None]  # (B, T, O)
    return x @ weight.mT + update.masked_fill((adapter_ids < 0)[:, None, None], 0.0)
