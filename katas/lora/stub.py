"""LoRA: a linear layer with a low-rank adapter, its merge, its injection into a model, and many adapters in a batch."""

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
        raise NotImplementedError("lora")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., I) -> (..., O)."""
        raise NotImplementedError("lora")

    def merge(self) -> None:
        """Adds (alpha / rank) B A to the base's weight; a second call does nothing."""
        raise NotImplementedError("lora")

    def unmerge(self) -> None:
        """Takes it out again; a second call does nothing."""
        raise NotImplementedError("lora")


def inject_lora(
    model: nn.Module, targets: Collection[str], *, rank: int, alpha: float, dropout: float = 0.0
) -> list[str]:
    """Wraps every nn.Linear whose last name component is in targets, and freezes all else; returns the names replaced.

    A module under several names is wrapped once and replaced under each, if any of them matches; all are returned. What
    is wrapped already stays as it is, trainable as it was. Raises ValueError, with nothing changed, if nothing matches.
    """
    raise NotImplementedError("lora")


def lora_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' tensors alone, keyed as in model.state_dict()."""
    raise NotImplementedError("lora")


def load_lora_state_dict(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Copies the adapters' tensors in. Raises KeyError naming a missing or unexpected key, with nothing changed."""
    raise NotImplementedError("lora")


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
    raise NotImplementedError("lora")
