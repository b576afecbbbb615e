"""Sources that need a file or a network, and shares of sources."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from strategies_values import Data


def other_sources() -> SearchStrategy[Data]:
    """Sources that need a file or a network: valid to read, not to run."""
    files = {"kind": st.just("files"), "path": st.sampled_from(["*.txt", ["a.md", "b/**/*.jsonl"]])}
    tables = {"kind": st.just("files"), "path": st.just("*.tsv"), "columns": st.sampled_from([["q"], ["q", "a"]])}
    package = {
        "kind": st.just("package"),
        "package": st.just("some-text"),
        "version": st.just("1.0.2"),
        "sha256": st.just("0af9" * 16),
        "files": st.just("data/*.json"),
    }
    parts = (st.fixed_dictionaries(fields) for fields in (files, tables, package))
    return st.one_of(*parts, st.just({"kind": "python_docs"}))


@st.composite
def mixtures(draw: DrawFn, names: list[str]) -> Data:
    """Shares of some of the sources, together 100%."""
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    cuts = sorted(draw(st.lists(st.integers(1, 99), min_size=len(chosen) - 1, max_size=len(chosen) - 1, unique=True)))
    shares = [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]
    return {name: f"{share}%" for name, share in zip(chosen, shares, strict=True)}
