"""Whether a Jinja template writes each turn's words as they are, whatever they say: read from its syntax tree. Imported
only where jinja2 is."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, nodes
from jinja2.ext import loopcontrols

from llmspec.parts.templates.jinja_tree import Generation

OTHERS: tuple[type[nodes.Node], ...] = (
    *(nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.Block),
    *(nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.ScopedEvalContextModifier),
)
"""Statements that may give words to what does anything with them."""
CALLS = ("raise_exception", "namespace", "range")
SAFE_TESTS = ("defined", "undefined", "none", "string", "mapping", "sequence", "iterable")
"""Tests that only ask what kind of a value something is."""
PASSES = 8
"""How often names are followed through what they are set to; those of real templates are set in order, once."""


def writes_words(source: str) -> bool:
    """Whether the words decide nothing, and are written whole wherever they are written; False in doubt."""
    made: Any = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    tree = made.parse(source)
    above = {child: node for node in tree.find_all(nodes.Node) for child in node.iter_child_nodes()}
    above |= dict.fromkeys(tree.iter_child_nodes(), tree)
    if next(tree.find_all(OTHERS), None) is not None:
        return False
    calls = [call.node for call in tree.find_all(nodes.Call)]
    if not all(isinstance(node, nodes.Name) and node.name in CALLS for node in calls):
        return False
    keys = [node.attr for node in tree.find_all(nodes.Getattr)] + [each.value for each in tree.find_all(nodes.Const)]
    if not {"previtem", "nextitem"}.isdisjoint(key for key in keys if isinstance(key, str)):  # of a loop: turns too
        return False
    holders = _holders(tree)
    return all(_kept(node, above) for node in tree.find_all(nodes.Name) if node.ctx == "load" and node.name in holders)


def _holders(tree: nodes.Template) -> set[str]:
    """Names of what holds turns, or may: the list, and what is set to something of it or goes through it."""
    pairs = [(node.target, node.iter) for node in tree.find_all(nodes.For)]
    pairs += [(node.target, node.node) for node in tree.find_all(nodes.Assign)]
    found = {"messages"}
    for _ in range(PASSES):
        before = len(found)
        for target, value in pairs:
            if any(name.name in found for name in _of(value, nodes.Name)):
                found |= {name.name for name in _of(target, nodes.Name)}
        if len(found) == before:
            return found
    return {name.name for name in tree.find_all(nodes.Name)}


def _of(node: nodes.Node, kind: type[Any]) -> list[Any]:
    return ([node] if isinstance(node, kind) else []) + [*node.find_all(kind)]


def _kept(node: nodes.Node, above: dict[nodes.Node, nodes.Node]) -> bool:
    """Whether what begins with a name of a holder gives no words to anything but to what writes them."""
    while True:
        over = above[node]
        if isinstance(over, nodes.Getattr) or (isinstance(over, nodes.Getitem) and over.node is node):
            key = over.attr if isinstance(over, nodes.Getattr) else _constant(over.arg)
            if key == "content":
                return _written(over, above)
            if isinstance(key, str):
                return True
            node = over  # one of a list, or some
        elif isinstance(over, nodes.Filter):
            return over.name in ("length", "count")
        elif isinstance(over, nodes.Test):
            return over.name in SAFE_TESTS
        else:
            return isinstance(over, nodes.For) or (
                isinstance(over, nodes.Assign) and isinstance(over.target, nodes.Name)
            )


def _constant(node: nodes.Node) -> Any:
    return node.value if isinstance(node, nodes.Const) else None


def _written(node: nodes.Node, above: dict[nodes.Node, nodes.Node]) -> bool:
    """Whether words only stand beside other text, to be written."""
    while isinstance(above[node], nodes.Add | nodes.Concat):
        node = above[node]
    over = above[node]
    return isinstance(over, nodes.Output) or (isinstance(over, nodes.Test) and over.name in SAFE_TESTS)
