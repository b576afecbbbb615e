"""A model that a spec extends: what its files say of the network, the tokenizer and the rest is the lowest layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from llmspec.core.problems import LlmspecError, Mark, Problem, one_of
from llmspec.parts.others import StartModel
from llmspec.spec.relative import start
from llmspec.spec.translate import Translator
from llmspec.spec.yaml12 import Node

Models = Callable[[StartModel, str], Mapping[str, Any]]
"""What opens a model: which one, and the folder where relative paths start -> its spec as plain data, with whole paths.
Raises LlmspecError. The spec language itself reads no models."""


def model_below(node: Node, spec: FilePath, models: Models | None) -> tuple[Node | None, list[Problem]]:
    """(the layer that the model which `node` names makes, what is wrong), for the spec at `spec`."""
    named, problems = _read(node)
    if named is None:
        return None, problems
    if models is None:
        why = "a model is opened by `llmspec.load_spec` and by the command line, not by `llmspec.spec` itself"
        return None, [Problem(why, ("extends",), mark=node.mark)]
    try:
        settings = models(named, str(start(spec)))
    except LlmspecError as error:
        return None, [replace(p, path=("extends",), mark=node.mark) for p in error.problems]
    return _node({key: value for key, value in settings.items() if key != "name"}, node.mark), []


def _read(node: Node) -> tuple[StartModel | None, list[Problem]]:
    """The model that a map names, and what is wrong with that map."""
    data, marks = _plain(node), {key: child.mark for key, child in node.value.items()}
    fields = [key for key in StartModel.model_fields if key not in ("digest", "bytes")]
    unknown = [key for key in data if key not in StartModel.model_fields]
    problems = [
        Problem("unknown key", ("extends", key), one_of(key, fields), "it would be ignored", node.value[key].key)
        for key in unknown
    ]
    try:
        return StartModel.model_validate({key: data[key] for key in data if key not in unknown}), problems
    except ValidationError as error:
        found = Translator(StartModel, ("extends",), data, lambda path: None).problems(error.errors(include_url=False))
        found = [p for p in found if len(p.path) > 1 or not unknown]  # a key that is misspelt is not missing
        return None, [*problems, *(replace(p, mark=_mark(p, marks, node.mark)) for p in found)]


def _mark(problem: Problem, marks: Mapping[str, Mark], otherwise: Mark) -> Mark:
    return marks.get(str(problem.path[1]), otherwise) if len(problem.path) > 1 else otherwise


def _plain(node: Node) -> Any:
    if node.is_map:
        return {key: _plain(child) for key, child in node.value.items()}
    return tuple(map(_plain, node.value)) if isinstance(node.value, tuple) else node.value


def _node(value: Any, mark: Mark) -> Node:
    """Plain data as if it were written where the model is named."""
    if isinstance(value, Mapping):
        return Node({key: _node(child, mark) for key, child in value.items()}, mark, mark)
    return Node(tuple(_node(child, mark) for child in value) if isinstance(value, list | tuple) else value, mark, mark)
