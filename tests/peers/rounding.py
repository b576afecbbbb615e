"""How far the difference of two logits may be off where a library rounds activations, computed from the derivative.

A product with quantised weights reads its activations in 8 bits: q = round(x / d) with d = max|x| / 127 of a block, so
that x is off by at most d / 2. llmspec keeps d in float32, for blocks of 32; llama.cpp keeps it in half precision for
blocks of 32 (beside it, with types that have a minimum, the sum of the block in half precision, too), or in float32
for blocks of 256 (K-quants). Keys, values, queries and attention's weights are halves in llama.cpp's attention, and
GELU is read from a table of halves.

To first order the margin of two logits is then off by the sum of derivative × error over everything that is rounded.
Errors of rounding are taken as independent and uniform within their bound c, which makes the sum sub-Gaussian with the
variance ∑ (derivative · c)² / 3: larger than s standard deviations with a chance below exp(-s² / 2) on each side
(Higham & Mary 2019, "A new approach to probabilistic rounding error analysis"; Widrow & Kollár 2008, chapter 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import eager_mask

HALF, DENORMAL = 2.0**-11, 2.0**-25
"""Largest error of a half-precision number: relative, and absolute where it is too small for that."""
SHORT, LONG = 32, 256
NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


@dataclass(frozen=True)
class Rounding:
    """The margin logit(one) - logit(other) without rounding, and the standard deviations of its error."""

    margin: float
    ours: float
    theirs: float


@dataclass
class Read:
    """An activation as all products of one rounding read it: summed derivatives."""

    x: Any
    derivative: Any = 0.0
    of_sums: Any = 0.0
    """By the sum of each block, through the minima of the weights."""


@dataclass
class Watched:
    """The reference, and what its last pass computed with."""

    model: Any
    types: dict[str, str]
    minima: dict[str, Any]
    linears: list[tuple[str, Any, Any, Any]] = field(default_factory=list)
    """(name, its input before it was taken apart, the input as this product reads it, its output)."""
    halves: list[Any] = field(default_factory=list)

    def rounding(self, ids: list[int], one: int, other: int) -> Rounding:
        """Of the logits after `ids`."""
        self.linears.clear()
        self.halves.clear()
        begin = self.model.get_input_embeddings()(torch.tensor([ids])).detach().requires_grad_()
        logits = self.model(inputs_embeds=begin, use_cache=False).logits[0, -1].double()
        margin = logits[one] - logits[other]
        margin.backward()
        ours, theirs = dict[Any, Read](), dict[Any, Read]()
        for name, whole, x, y in self.linears:
            kind = self.types[name]
            long, low = kind.endswith("_K"), self.minima.get(name)
            for reads, key in ((ours, id(whole)), (theirs, (id(whole), long, low is not None))):
                read = reads.setdefault(key, Read(x.detach()[0].double()))
                read.derivative = read.derivative + x.grad[0].double()
                if low is not None:
                    read.of_sums = read.of_sums + y.grad[0].double() @ low
        halves = [x for x in self.halves if x.grad is not None]
        of_halves = sum(float((x.grad * x.detach() * HALF).double().square().sum()) for x in halves)
        return Rounding(
            float(margin.detach()),
            sqrt(sum(in_steps(read, SHORT) for read in ours.values()) / 3),
            sqrt((sum(map(of_theirs, theirs.items())) + of_halves) / 3),
        )


def in_steps(read: Read, length: int) -> float:
    """∑ (derivative · half a step)² of 8-bit numbers in blocks."""
    x, g = read.x.unflatten(-1, (-1, length)), read.derivative.unflatten(-1, (-1, length))
    return float((g * x.abs().amax(-1, keepdim=True) / 254).square().sum())


def of_theirs(entry: tuple[Any, Read]) -> float:
    """The same for llama.cpp, with its halves."""
    (_, long, low), read = entry
    if long:
        return in_steps(read, LONG)
    x, g = read.x.unflatten(-1, (-1, SHORT)), read.derivative.unflatten(-1, (-1, SHORT))
    sums, d = x.sum(-1), x.abs().amax(-1) / 127
    by_scale = (g * x).sum(-1) - read.of_sums * sums
    relative = torch.where(d > 0, (DENORMAL / d).clamp(min=HALF), 0.0)
    found = (by_scale * relative).square().sum()
    if low:
        found = found + (read.of_sums * (sums.abs() * HALF).clamp(min=DENORMAL)).square().sum()
    return in_steps(read, SHORT) + float(found)


def watched(folder: Path, file: Path) -> Watched:
    """The model of transformers in a folder, with the types of weights of the GGUF file that it was made of."""
    AttentionInterface.register("watched", attention)
    AttentionMaskInterface.register("watched", eager_mask)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="watched")
    model.requires_grad_(False)
    tensors = {t.name: t for t in gguf.GGUFReader(str(file)).tensors}
    made = Watched(model, {}, {})
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            own = tensors[ggml_name(name, tensors)]
            made.types[name] = own.tensor_type.name
            if own.tensor_type.name in ("Q4_1", "Q5_1"):
                heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-1])
                turned = getattr(model.config, heads) if heads and model.config.model_type == "llama" else 0
                made.minima[name] = minima(own, turned)
            module.register_forward_hook(linear_hook(made, name))
            module.register_forward_pre_hook(apart)
        elif type(module).__name__.startswith("GELU"):
            module.register_forward_pre_hook(lambda module, args: (kept(made, args[0]),))
            module.register_forward_hook(lambda module, args, y: kept(made, y))
    attention.made = made  # type: ignore[attr-defined]
    return made


def ggml_name(name: str, tensors: Any) -> str:
    """The tensor of a linear layer."""
    if name.endswith("lm_head"):
        return "output.weight" if "output.weight" in tensors else "token_embd.weight"
    *_, layer, _, last = name.split(".")
    return f"blk.{layer}.{NAMES[last]}.weight"


def minima(tensor: Any, heads: int) -> Any:
    """(outputs, blocks) float64: the minimum of each block; rows of LLaMA's queries and keys in transformers' order."""
    kind = tensor.tensor_type
    size = gguf.GGML_QUANT_SIZES[kind][1]
    found = tensor.data.reshape(tensor.shape[1], -1, size)[..., 2:4].copy().view(np.float16)[..., 0].astype(np.float64)
    if heads:
        found = found.reshape(heads, -1, 2, found.shape[1]).swapaxes(1, 2).reshape(found.shape)
    return torch.from_numpy(found)


def apart(module: Any, args: Any) -> Any:
    """Gives each product a view of its own of what it reads, so that its derivative can be told from the others'."""
    module.whole = args[0]
    x = args[0].view_as(args[0])
    x.retain_grad()
    return (x,)


def linear_hook(made: Watched, name: str) -> Callable[..., None]:
    """Notes what a linear layer reads and gives."""

    def note(module: Any, args: Any, y: Any) -> None:
        y.retain_grad()
        made.linears.append((name, module.whole, args[0], y))

    return note


def kept(made: Watched, x: Any) -> Any:
    """A number that llama.cpp has in half precision."""
    x = x.view_as(x)
    x.retain_grad()
    made.halves.append(x)
    return x


def attention(module: Any, q: Any, k: Any, v: Any, mask: Any, scaling: float, **_: Any) -> tuple[Any, None]:
    """Attention as transformers' eager one has it, with its halves noted."""
    made: Watched = attention.made  # type: ignore[attr-defined]
    q, k, v = (kept(made, x) for x in (q, k, v))
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(2, 3) * scaling
    p = kept(made, (scores + mask[..., : k.shape[2]] if mask is not None else scores).softmax(-1))
    return (p @ v).transpose(1, 2).contiguous(), None
