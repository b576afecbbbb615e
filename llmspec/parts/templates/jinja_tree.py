"""Changes to a Jinja template's syntax tree that make it countable. Imported only where jinja2 is."""

from __future__ import annotations

from typing import Any, ClassVar

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.visitor import NodeTransformer


class Bounds(NodeTransformer):
    """Each round of a loop and each call of a macro begins with a step; what is put together is measured; the clock is
    read before what goes through all of a value."""

    # As filters, since a template can give no variable their names.
    STEP: ClassVar[str] = "llmspec_step"
    TICK: ClassVar[str] = "llmspec_tick"
    CONCAT: ClassVar[str] = "llmspec_concat"
    MADE: ClassVar[str] = "llmspec_made"
    SLICED: ClassVar[str] = "llmspec_sliced"
    WRITTEN: ClassVar[str] = "llmspec_written"

    def visit_For(self, node: nodes.For, *args: Any, **kwargs: Any) -> nodes.Node:
        if node.test is not None:  # asked of items that no round is for
            node.test = _filtered(node.test, self.TICK)
        return self._stepping(node)

    def visit_Macro(self, node: nodes.Macro, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._stepping(node)

    def visit_CallBlock(self, node: nodes.CallBlock, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._stepping(node)

    def _stepping(self, node: Any) -> nodes.Node:
        written = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        line = node.lineno
        step = _filtered(nodes.Const(written).set_lineno(line), self.STEP)
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(line))
        return node

    def visit_FilterBlock(self, node: nodes.FilterBlock, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        node.filter = _filtered(node.filter, self.WRITTEN)
        return node

    def visit_Concat(self, node: nodes.Concat, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.Tuple(node.nodes, "load").set_lineno(node.lineno), self.CONCAT)

    def visit_List(self, node: nodes.List, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._measured(node)

    def visit_Dict(self, node: nodes.Dict, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._measured(node)

    def visit_Tuple(self, node: nodes.Tuple, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._measured(node) if node.ctx == "load" else node

    def visit_Operand(self, node: nodes.Operand, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.expr, nodes.Const):  # a comparison with what the template spells is short
            node.expr = _filtered(node.expr, self.TICK)
        return node

    def visit_Getitem(self, node: nodes.Getitem, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _filtered(node, self.SLICED)
        if not isinstance(node.arg, nodes.Const):  # a key may be a long tuple, all of which is hashed
            node.arg = _filtered(node.arg, self.TICK)
        return node

    def _measured(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, self.MADE)


def _filtered(node: Any, name: str) -> Any:
    found: Any = nodes.Filter(node, name, [], [], None, None)
    return found.set_lineno(node.lineno)


class Generation(Extension):
    """`{% generation %} … {% endgeneration %}` around what the assistant says: written as it stands."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)
