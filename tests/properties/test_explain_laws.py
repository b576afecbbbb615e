"""Laws of `explain`, over every part of the tables."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from strategies_decoding import decodings
from strategies_models import feed_forward_layers

from llmspec.compiler import compile_spec
from llmspec.explain.chain import chain_report
from llmspec.explain.decoding import visible_bytes
from llmspec.explain.model import TreeNode, folded
from llmspec.explain.spec import explain_plan
from llmspec.parts import attentions, norms, positions
from llmspec.parts.residual import FORMS
from llmspec.render.report_shared import spark
from llmspec.spec.decoding import Decoding
from llmspec.spec.schema import Spec


def kinds(table: Any) -> st.SearchStrategy[dict[str, str]]:
    return st.sampled_from([{"kind": name} for name in table])


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Model sections of any parts."""
    attention = {**draw(kinds(attentions.TABLE)), "heads": 4, "bias": draw(st.booleans())}
    return {
        "context": draw(st.integers(2, 64)),
        "d_model": 8 * draw(st.integers(1, 4)),
        "layers": draw(st.integers(1, 9)),
        "position": draw(kinds(positions.TABLE)),
        "attention": attention,
        "mlp": draw(feed_forward_layers()),
        "norm": draw(kinds(norms.TABLE)),
        "residual": draw(st.sampled_from(list(FORMS))),
        "heads": {"lm": {"kind": "lm", "tied": draw(st.booleans())}},
    }


def check_sums(node: TreeNode) -> None:
    """A node's parameters are its children's."""
    if node.children:
        assert node.parameters == sum(child.parameters for child in node.children), node.name
        for child in node.children:
            check_sums(child)


@given(models())
def test_the_tree_adds_up_at_every_node(model: dict[str, Any]) -> None:
    report = explain_plan(
        compile_spec(
            Spec.model_validate(
                {
                    "name": "drawn",
                    "device": "CPU",
                    "model": model,
                    "data": {"sources": {"a": {"kind": "inline", "documents": ("text",)}}},
                    "phases": {"p": {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "5 steps"}},
                }
            )
        )
    )
    check_sums(report.model)
    assert report.model.parameters == sum(math.prod(t.shape) for t in report.tensors)
    assert sum(n * row.parameters for _, n, row in folded(report.tensors)) == report.parameters


@given(decodings())
def test_a_chain_has_one_effect_per_filter_that_is_on(decoding: Decoding) -> None:
    effects = chain_report(decoding).effects
    assert [e.filter for e in effects] == ["", *(f.kind for f in decoding.chain())]
    for e in effects:
        assert 1 <= e.kept <= 1000 and -1e-9 <= e.entropy_bits <= math.log2(e.kept) + 1e-6


@given(st.binary(max_size=12))
def test_visible_text_hides_nothing(data: bytes) -> None:
    text = visible_bytes(data)
    assert text.isprintable() and " " not in text and bool(text) == bool(data)


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 50))
def test_a_sparkline_keeps_its_width(values: list[float], width: int) -> None:
    assert len(spark(values, width)) == min(width, len(values))
