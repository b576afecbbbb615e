"""The shipped specs of published models: their counts are the published ones, and asking about them is free."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
import tiny

from llmspec.compiler import Plan, compile_spec
from llmspec.spec import load_spec

PARAMETERS = {
    "gpt2-124m": 124_439_808,  # huggingface.co/openai-community/gpt2
    "llama2-7b": 6_738_415_616,  # huggingface.co/meta-llama/Llama-2-7b-hf
    "llama2-70b": 68_976_648_192,  # huggingface.co/meta-llama/Llama-2-70b-hf
}
LARGE = ("gpt2-124m", "gpt3-175b", "llama2-7b", "llama2-70b")


def plan(name: str, *overrides: str) -> Plan:
    limit = () if name.startswith(("gpt3", "llama")) else ("memory_limit=64 GiB",)
    return compile_spec(load_spec(tiny.ROOT / "specs" / f"{name}.yaml", [*limit, *overrides]).spec)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_released(name: str) -> None:
    assert plan(name).model.parameters == PARAMETERS[name]


def test_the_student_of_distil_is_quickstart_with_a_teacher() -> None:
    student, alone = plan("distil").phase("student").phase, plan("quickstart").phase("pretrain").phase
    told = {"objective", "evaluate_every", "sample_every", "checkpoint_every", "prompts"}
    differ = {name for name in type(alone).model_fields if getattr(student, name) != getattr(alone, name)}
    assert "objective" in differ <= told and student.needs == ("teacher",)


def test_gpt3_is_its_papers_table() -> None:
    """Brown et al. 2020, tables 2.1 and D.1: 174.6 billion parameters, 3.14e23 FLOPs by 6ND over 300 billion tokens."""
    gpt3 = plan("gpt3-175b")
    shapes, block = {t.name: t.shape for t in gpt3.model.tensors}, gpt3.model.stacks[0].blocks[0]
    assert shapes["embed_tokens.weight"] == (50257, 12288) and shapes["position.weight"] == (2048, 12288)
    assert (gpt3.model.layers, block.attention.heads, block.attention.head_dim) == (96, 96, 128)
    assert round(gpt3.model.parameters / 1e8) == 1746
    tokens = gpt3.phases[0].tokens
    assert tokens is not None and abs(tokens / 300e9 - 1) < 1e-4
    assert 6 * gpt3.model.parameters * 300e9 == pytest.approx(3.14e23, rel=2e-3)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("verb", ["check", "explain"])
def test_answers_at_once_and_allocates_no_weights(name: str, verb: str) -> None:
    """Under 2 processor seconds beyond what `--help` takes, in less memory than the smallest of these models has."""

    def spent(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(tiny.command(*arguments), check=True, capture_output=True, cwd=tiny.ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    limit = ["--set", "memory_limit=64 GiB"] if name == "gpt2-124m" else []
    arguments = [verb, f"specs/{name}.yaml", *limit]
    assert min(spent(*arguments) for _ in range(2)) - spent("--help") < 2.0
    # Asked of the process itself: what its parent held would count as its own otherwise.
    code = (
        "import atexit, sys; from llmspec.forecast.process_memory import peak_bytes\n"
        "from llmspec.cli.app import app\n"
        "atexit.register(lambda: print(peak_bytes(), file=sys.stderr)); app(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True, cwd=tiny.ROOT
    )
    assert int(done.stderr.strip().splitlines()[-1]) < 400e6
