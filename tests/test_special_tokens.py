"""Special tokens that an objective or a chat template needs are asked for before anything is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import tiny

from llmspec.compiler.compile import run_passes
from llmspec.compiler.draft import Draft, sections_of
from llmspec.core.problems import Problem
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.tokenizers.byte import Byte
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.spec import load_spec
from llmspec.spec.check import Sections


class Masked(CrossEntropy):
    """Needs the token that stands for a word."""

    special_tokens: ClassVar[tuple[str, ...]] = ("mask",)


class Bare(Byte):
    """A tokenizer whose tokens have one meaning."""

    kind: Literal["byte"] = "byte"

    def meanings(self) -> SpecialTokens:
        return SpecialTokens(ids={"</s>": 0}, eos=0)


@pytest.fixture
def sections(tmp_path: Path) -> Sections:
    return sections_of(load_spec(tiny.write(tmp_path)).spec)


def problems(sections: Sections) -> tuple[Problem, ...]:
    return run_passes(Draft(sections)).problems


def test_an_objective_gets_the_token_that_it_asks_for(sections: Sections) -> None:
    pretrain = sections.phases["pretrain"].model_copy(update={"objective": Masked()})
    asking = replace(sections, phases={**sections.phases, "pretrain": pretrain})
    (problem,) = problems(asking)
    assert problem.message == "cross_entropy needs a special token for `mask`, and the tokenizer has none"
    assert problem.path == ("phases", "pretrain", "objective") and "special_tokens: [mask]" in problem.hint
    assert not problems(replace(asking, tokenizer=Byte(special_tokens=("mask",))))


def test_a_template_without_its_tokens_is_refused_where_dialogues_are_read(sections: Sections) -> None:
    assert not problems(sections)
    bare = replace(sections, tokenizer=Bare())
    found = problems(bare)
    assert {p.path for p in found} == {("chat_template",)} and len(found) == 6
    assert "role_tokens needs a special token for `turn_end`" in found[1].message
    plain = {name: phase for name, phase in bare.phases.items() if not phase.dialogues}
    assert plain and not problems(replace(bare, phases=plain))
