"""What a run computes does not follow the number of threads: on every set of instructions, by a BLAS or without."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import tiny

from llmspec.core.devices import processor

RUN = """
import hashlib, sys
import numpy as np
from llmspec.compiler import compile_spec
from llmspec.spec.schema import Spec
plan = compile_spec(Spec.model_validate_json(sys.argv[1]))
from llmspec.bench.llmspec_side import Training, decoder
from llmspec.bench.task import Task
from llmspec.model.device import open_device
open_device("CPU")
from llmspec.backends.cpu import native, products
if sys.argv[2] == "BLAS":  # as on a processor whose tiles have not been compared with one
    products.MEASURED = ()
from llmspec.backends.tensors import to_numpy

def told(name, *arrays):
    print(name, hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()[:16])

print(native.products(), file=sys.stderr)
for phase in plan.phases:
    training = Training(plan, phase)
    losses = [training.advance() for _ in range(3)]
    held = (*training.trainer.weights.values(), *training.trainer.state.values())
    told(f"{phase.name}: {losses}", *map(to_numpy, held))
made = decoder(Task(side="llmspec", work="decode", plan=plan, phase=""))
for length in (2, 100):  # few rows, and a prompt of several panels
    prompts = [[i % 50 for i in range(length)]] + [[i % 7 for i in range(n)] for n in (3, 20, 9, 70)]
    cache, logits = made.prefill(prompts)
    told(f"prefill of {length}", logits)
    steps = [made.step(cache, [i + r for r in range(5)]) for i in range(3)]
    told("decode steps", *steps)
    for row, prompt in enumerate(prompts):  # each alone
        cache, first = made.prefill([prompt])
        alone = [first[0], *(made.step(cache, [i + row])[0] for i in range(3))]
        assert (np.array(alone) == np.array([x[row] for x in (logits, *steps)])).all(), (length, row)
"""
SPEC = """
{"name": "threads", "device": "CPU", "seed": 3,
 "model": {"context": 128, "d_model": 72, "layers": 2, "position": {"kind": "rope"}, "dropout": 0.1,
           "attention": {"heads": 6, "kv_heads": 2}, "mlp": {"kind": "swiglu", "d_ff": 200},
           "blocks": {"dense": {}, "sparse": {"mlp": {"kind": "mixture_of_experts", "experts": 5,
                                                      "expert": {"kind": "swiglu", "d_ff": 90}}}},
           "pattern": ["dense", "sparse"]},
 "tokenizer": {"kind": "bpe", "vocab": 600},
 "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
 "phases": {
   "muon": {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "9 steps", "micro_batch_size": 3,
            "optimizer": {"kind": "muon"}},
   "adamw": {"kind": "pretrain", "from": "muon", "mixture": {"a": "100%"}, "budget": "9 steps", "micro_batch_size": 2,
             "optimizer": {"kind": "adamw"}}}}
"""
BUILDS = {
    "": ("own tiles", ("1", "5")),
    "avx2": ("own tiles of 6 × 16 (AVX2)", ("1", "2", "3", "5")),
    "sse": ("own tiles of 4 × 8 (SSE)", ("1", "3")),
    "BLAS": ("openblas", ("1", "3")),
}
"""Sets of instructions, and own tiles passed over -> what is to multiply, and numbers of threads."""


def computed(build: str, threads: str) -> tuple[str, str]:
    """(all digests, what multiplied)."""
    env = {
        **os.environ,
        "PYTHONPATH": str(tiny.ROOT),
        "LLMSPEC_INSTRUCTIONS": "avx2" if build == "BLAS" else build,
        "LLMSPEC_THREADS": threads,
        **({"OPENBLAS_CORETYPE": "Haswell"} if build == "BLAS" else {}),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, SPEC, build], capture_output=True, text=True, env=env, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("build", BUILDS)
def test_no_bits_follow_the_number_of_threads(build: str) -> None:
    if build and ("avx2" if build == "BLAS" else build) not in processor():
        pytest.skip("another processor")
    by, numbers = BUILDS[build]
    made = {threads: computed(build, threads) for threads in numbers}
    if build == "BLAS" and "no BLAS" in made["1"][1]:
        pytest.skip(made["1"][1])
    assert all(said.startswith(by) and f"{threads} threads" in said for threads, (_, said) in made.items())
    assert len({text for text, _ in made.values()}) == 1
