"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), with a rank-stabilised scale (Kalajdzievski 2023,
arXiv:2312.03732) and weights taken apart into direction and size (DoRA; Liu et al. 2024, arXiv:2402.09353).

Shape letters: N rows, O outputs, I inputs of a layer, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.parts.adapters.base import Adapter, AdapterTensor
from llmspec.parts.base import Init, TensorSpec
from llmspec.parts.dropout import LOST

if TYPE_CHECKING:
    from llmspec.parts.ops import Adapted, Linear, Operations, Tensor, WeightView

A, B, MAGNITUDE, NORM = "lora_A.weight", "lora_B.weight", "lora_magnitude", "lora_norm"


class LoRA(Adapter):
    """Adds a product of two thin matrices to each layer: B, which starts as zeros, by A, which is drawn."""

    kind: Literal["lora"] = "lora"
    formula: ClassVar[str] = "y = x·Wᵀ + (alpha / r)·(x·Aᵀ)·Bᵀ"
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "alpha": ("the adapter would change nothing", "every output would become infinite"),
        "dropout": LOST,
    }
    r: int = Field(8, gt=0, le=1 << 16)
    """Rank: rows of A, and columns of B."""
    alpha: float = Field(16.0, gt=0)
    """What is added counts alpha / r times, or alpha / √r times if `rslora`."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of what A reads that training drops (lora_dropout in PEFT); the layer itself reads all of it."""
    rslora: bool = False
    """Whether the scale follows √r, so that larger ranks do not learn more slowly (Kalajdzievski 2023)."""
    dora: bool = False
    """Whether each row of the sum has a trained size of its own, which starts as that of the layer's row: W' = m · (W +
    s·B·A) / ‖W + s·B·A‖, whose norm counts as a constant in the gradient (Liu et al. 2024, section 4.3)."""

    @property
    def scale(self) -> float:
        """What B·A is multiplied with."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    @property
    def drops(self) -> bool:
        return bool(self.dropout)

    def dropped(self, outputs: int, inputs: int) -> int:
        return inputs if self.dropout else 0

    def undropped(self) -> LoRA:
        return self.model_copy(update={"dropout": 0.0})

    def tensors(self, outputs: int, inputs: int, residual: bool) -> tuple[AdapterTensor, ...]:
        # As spread as PEFT's uniform numbers in ±1/√I.
        a = AdapterTensor(TensorSpec(A, (self.r, inputs), "matrix"), Init(std=1 / math.sqrt(3 * inputs)))
        b = AdapterTensor(TensorSpec(B, (outputs, self.r), "matrix", residual), Init(distribution="zeros"))
        if not self.dora:
            return a, b
        ones, zeros = Init(distribution="ones"), Init(distribution="zeros")
        size = AdapterTensor(TensorSpec(MAGNITUDE, (outputs,), "norm", residual), ones)
        return a, b, size, AdapterTensor(TensorSpec(NORM, (outputs,), "buffer"), zeros)

    def fitted(self, weight_OI: Any) -> Mapping[str, Any]:
        """Sizes of the rows, ‖W‖, of which one is trained, and the other stays for the norm of the sum."""
        import numpy as np

        if not self.dora:
            return {}
        size_O = np.sqrt(np.square(weight_OI, dtype=np.float64).sum(1)).astype(np.float32)
        return {MAGNITUDE: size_O, NORM: size_O.copy()}

    def off(self, held: Mapping[str, Any]) -> Mapping[str, Any]:
        zeros = {name: array * 0 for name, array in held.items() if name.endswith(f".{B}")}
        sizes = [name for name in held if name.endswith(f".{MAGNITUDE}")]
        return zeros | {name: held[f"{name.removesuffix(MAGNITUDE)}{NORM}"] for name in sizes}

    def merged(self, weight_OI: Any, own: Mapping[str, Any]) -> Any:
        import numpy as np

        total = np.asarray(weight_OI, np.float64)
        total = total + self.scale * (np.asarray(own[B], np.float64) @ np.asarray(own[A], np.float64))
        if self.dora:
            size_O = np.sqrt(np.square(total).sum(1))
            total *= (np.asarray(own[MAGNITUDE], np.float64) / np.maximum(size_O, np.finfo(np.float32).tiny))[:, None]
        return total.astype(np.float32)

    def build(self, w: WeightView) -> Adapted:
        a_RI, b_OR = w.linear("lora_A"), w.linear("lora_B")
        size_O, norm_O = (w[MAGNITUDE], w[NORM]) if self.dora else (None, None)

        def adapted(ops: Operations, x: Tensor, layer: Linear, y: Tensor) -> Tensor:
            read = ops.dropout(x, self.dropout)
            added = ops.linear(ops.linear(read, a_RI), b_OR) * self.scale
            if size_O is None or norm_O is None:
                return y + added
            bias = layer.bias
            if read is not x:  # As PEFT does it: what the size changes of the layer's own reads what is left, too.
                factor_O = size_O / self.norm(ops, layer, a_RI.weight, b_OR.weight, norm_O)
                own = ops.linear(read, layer._replace(bias=None))
                return y + (factor_O - 1) * own + factor_O * added
            plain = y if bias is None else y - bias
            out = (plain + added) * (size_O / self.norm(ops, layer, a_RI.weight, b_OR.weight, norm_O))
            return out if bias is None else out + bias

        return adapted

    def norm(self, ops: Operations, layer: Linear, a_RI: Tensor, b_OR: Tensor, norm_O: Tensor) -> Tensor:
        """‖W + s·B·A‖ of each row (O,), a constant: ‖W‖² + 2s·⟨W, B·A⟩ + s²·‖B·A‖², without a matrix like W."""
        a, b = a_RI.detach().contiguous(), b_OR.detach().contiguous()
        both_RO = ops.linear(a, layer._replace(bias=None)).detach()
        gram_RR = ops.matmul(a, a, transpose_b=True).detach()
        inner_O = (both_RO.transpose(0, 1) * b).sum(1)
        square_O = (ops.matmul(b, gram_RR).detach() * b).sum(1)
        return (norm_O.square() + 2 * self.scale * inner_O + self.scale**2 * square_O).sqrt().detach().contiguous()
