"""Changes to a Jinja template's syntax tree that make it countable. Imported only where jinja2 is."""

from __future__ import annotations

from typing import Any, ClassVar

from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.visitor import NodeTransformer


class Bounds(NodeTransformer):
    """Each round of a loop and each call of a macro begins with a step; what is put together is measured."""

    STEP: ClassVar[str] = "llmspec_step"
    CONCAT: ClassVar[str] = "llmspec_concat"
    MADE: ClassVar[str] = "llmspec_made"

    def visit_For(self, node: nodes.For, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._stepping(node)

    def visit_Macro(self, node: nodes.Macro, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._stepping(node)

    def visit_CallBlock(self, node: nodes.CallBlock, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._stepping(node)

    def _stepping(self, node: Any) -> nodes.Node:
        written = sum(len(text.data) for text in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        line = node.lineno
        step = _call(self.STEP, [nodes.Const(written)], line)
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(line))
        return node

    def visit_Concat(self, node: nodes.Concat, *args: Any, **kwargs: Any) -> nodes.Node:
        self.generic_visit(node)
        return _call(self.CONCAT, node.nodes, node.lineno)

    def visit_List(self, node: nodes.List, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._measured(node)

    def visit_Dict(self, node: nodes.Dict, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._measured(node)

    def visit_Tuple(self, node: nodes.Tuple, *args: Any, **kwargs: Any) -> nodes.Node:
        return self._measured(node) if node.ctx == "load" else node

    def _measured(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return _call(self.MADE, [node], node.lineno)


def _call(name: str, given: list[Any], line: int) -> Any:
    function = nodes.Name(name, "load").set_lineno(line)
    call: Any = nodes.Call(function, given, [], None, None)
    return call.set_lineno(line)


class Generation(Extension):
    """`{% generation %} … {% endgeneration %}` around what the assistant says: written as it stands."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)
