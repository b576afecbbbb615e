"""Writes a model as one GGUF file: metadata of its network, tokenizer and template, and tensors in a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmspec.compiler.plan import Plan
from llmspec.core.problems import LlmspecError, one_of
from llmspec.core.quantised import Quantised, as_float32, quantise
from llmspec.core.weight_types import TYPES
from llmspec.formats.gguf import rope
from llmspec.formats.gguf.importing import DECODING, SAMPLING
from llmspec.formats.gguf.proposing import Proposal
from llmspec.formats.gguf.vocabulary import Vocabulary
from llmspec.formats.gguf.weights import EMBEDDING, PACKED
from llmspec.formats.gguf.writing import Tensor, Value, write

OFFERED = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k")
"""Types that a whole model may be written in."""
NEXT = {"q4_k": "q8_0", "q5_k": "q8_0", "q6_k": "q8_0"}
"""What a tensor is written in whose rows are no whole blocks of a type; f16 where blocks of 32 do not fit either. Five
bits (q5_0) would cost a model of 135M parameters, all of whose rows are of 576, more than four bits may."""
LOGITS = {"q4_0": "q6_k", "q4_k": "q6_k"}
"""What the matrix that gives logits is written in beside a type, as llama.cpp's own files have it: it errs the most."""
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_k": 14, "q5_k": 16}
FILE_TYPES |= {"q6_k": 18, "bf16": 32}
"""`general.file_type` of files most of whose tensors are of a type."""
LEAST, MOST, WHOLE = 1e-30, 3e38, (1 << 31) - 1
"""Sizes that numbers other than 0 may have in float32 so that they do what they say, and the largest whole number."""


@dataclass(frozen=True)
class Placed:
    """How the matrices of a file are written."""

    types: Mapping[str, str]
    """Type by the name of the file's tensor."""
    rows: Mapping[str, tuple[str, int]]
    """Of those whose rows are no whole blocks of the type that they were to have: that type, and numbers of a row."""
    size: int
    """Bytes of all tensors."""

    def counts(self) -> dict[str, int]:
        """How many tensors each type has, the largest number first."""
        found = [*self.types.values()]
        return dict(sorted(((name, found.count(name)) for name in {*found}), key=lambda pair: (-pair[1], pair[0])))


def check_type(name: str) -> None:
    """Raises LlmspecError for what is no type that a model is written in."""
    if name and name not in OFFERED:
        raise LlmspecError(f"no type of weights is named `{name}` here", one_of(name, OFFERED))


def placed(proposal: Proposal, plan: Plan, weights: Mapping[str, Any], type: str) -> Placed:
    """The type of every tensor. Norms, biases and what is no matrix of a linear layer or the embedding stay float32.

    `type`: that of the matrices; with '' a tensor stays in the type that it has."""
    roles = {tensor.name: tensor.role for tensor in plan.model.tensors}
    logits = next((name for name, role in roles.items() if role == "head"), EMBEDDING)
    types: dict[str, str] = {}
    rows: dict[str, tuple[str, int]] = {}
    size = 0
    for group in proposal.groups:
        ours = [name for name, _ in group.ours]
        matrices = all(len(shape) > 1 for _, shape in group.theirs)
        packed = matrices and all(roles[name] in PACKED or name == EMBEDDING for name in ours)
        for name, shape in group.theirs:
            kept = {weights[one].type if isinstance(weights[one], Quantised) else "f32" for one in ours}
            wanted = type if type else kept.pop() if len(kept) == 1 else "f32"
            if type and logits in ours:
                wanted = LOGITS.get(type, type)
            found = wanted if packed else "f32"
            while not TYPES[found].fits(shape):
                found, rows[name] = NEXT.get(found, "f16"), (wanted, shape[-1])
            types[name] = found
            size += TYPES[found].size(shape)
    return Placed(types, rows, size)


def write_model(
    path: Path,
    proposal: Proposal,
    plan: Plan,
    weights: Mapping[str, Any],
    vocabulary: Vocabulary,
    placed: Placed,
    *,
    license: str = "",
    progress: Callable[[str, float, float], None] = lambda what, done, total: None,
) -> None:
    """Writes the file. Raises OSError, and LlmspecError for numbers that a type cannot hold."""
    most = max(placed.types.values(), key=[*placed.types.values()].count, default="f32")
    matrices = [t for t in placed.types.values() if TYPES[t].quantised] or [most]
    about: dict[str, Value] = {"general.type": "model", "general.name": plan.name}
    about["general.file_type"] = FILE_TYPES[max(matrices, key=matrices.count)]
    if license:
        about["general.license"] = license
    if any(TYPES[t].quantised for t in placed.types.values()):
        about["general.quantization_version"] = 2
    architecture, *network = proposal.metadata.items()
    metadata: dict[str, Value] = dict([architecture, *about.items(), *network])
    metadata |= _decoding(plan) | vocabulary.metadata
    tensors = _tensors(proposal, weights, placed)
    write(path, metadata, tensors, lambda done, total: progress("writing weights", done, total))


def _decoding(plan: Plan) -> dict[str, Value]:
    """Settings that the run draws with, where the format has a place for them; those that are off too, since llama.cpp
    takes 40 for a top_k that is not there."""
    found: dict[str, Value] = {
        SAMPLING + name: bounded(key, getattr(plan.decoding, key)) for name, key in DECODING.items()
    }
    if plan.decoding.filter("penalties").active():  # of the last 64 tokens, if nothing is said
        found[SAMPLING + "penalty_last_n"] = plan.model.context
    return found


def bounded(key: str, value: float | None) -> int | float:
    """A setting of `decoding:` as llama.cpp computes with it, in float32 and int32: no number becomes infinite there,
    or makes logits so. What is off is 0."""
    if value is None:
        return 0
    if isinstance(value, int):
        return min(value, WHOLE)
    if not value or (key == "temperature" and value < LEAST):  # such a temperature is as good as 0 here
        return 0.0
    return min(max(abs(value), LEAST), MOST) * (1 if value > 0 else -1)


def _tensors(proposal: Proposal, weights: Mapping[str, Any], placed: Placed) -> list[Tensor]:
    """What makes each of the file's tensors, when its turn comes."""
    found: list[Tensor] = []
    for group in proposal.groups:
        for number, (name, shape) in enumerate(group.theirs):

            def make(group: Any = group, number: int = number, name: str = name) -> Quantised:
                return _in_type(group, weights, number, placed.types[name], name)

            found.append(Tensor(name, placed.types[name], tuple(shape), make))
    if proposal.frequencies is not None:
        import numpy as np

        factors = np.array(proposal.frequencies, np.float32)
        found.append(Tensor(rope.FREQUENCIES, "f32", factors.shape, lambda: quantise("f32", factors)))
    return found


def _in_type(group: Any, weights: Mapping[str, Any], number: int, type: str, name: str) -> Quantised:
    """One of a group's tensors. What lies in the type already is taken as it is, bit for bit."""
    ours = [weights[one] for one, _ in group.ours]
    if len(ours) == len(group.theirs) == 1 and isinstance(ours[0], Quantised) and ours[0].type == type:
        kept: Quantised = group.join(ours)[0]
        return kept
    joined = group.join([as_float32(one) for one in ours])
    return quantise(type, joined[number], name)
