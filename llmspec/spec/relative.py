"""Paths in a spec start in the folder of the file that says them, also where another file extends it."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from llmspec.core import shipped
from llmspec.core.problems import Path
from llmspec.core.regular import read_regular
from llmspec.parts import sources, templates, tokenizers
from llmspec.parts.others import NAMED, covers
from llmspec.spec.yaml12 import Node

MOST = 64 << 20
"""Bytes of a plan.json, at most."""
_SOURCES = ("data", "sources")


def start(spec: FilePath) -> FilePath:
    """Absolute folder in which the relative paths of a spec start: its own. A spec that came with an installed llmspec
    has nothing of the user's beside it, and starts in the working directory; one that a run kept starts where the run
    was started from."""
    folder = spec.absolute().parent
    return FilePath.cwd() if shipped.installed(folder) else _of_run(spec.absolute()) or folder


def _of_run(spec: FilePath) -> FilePath | None:
    """The folder in which the paths of a run's kept spec started; None where it is none, or that folder is not here."""
    run = spec.parent.parent if spec.parent.name == "spec" else spec.parent if spec.name == "resolved.yaml" else None
    try:
        plan = json.loads(read_regular(run / "plan.json", MOST)) if run else None
    except (OSError, ValueError, RecursionError):
        return None
    base = plan.get("base") if isinstance(plan, dict) else None
    return FilePath(base) if isinstance(base, str) and os.path.isabs(base) and os.path.isdir(base) else None


def folder_of(name: str, found: FilePath) -> str:
    """The folder of the file `found` that an `extends: name` means, as seen from the spec that says so."""
    begin = start(found)
    if begin == found.absolute().parent:
        return os.path.dirname(os.path.expanduser(name))
    return "" if shipped.installed(found.absolute().parent) else str(begin)


def rebased(node: Node, folder: str, at: Path = ()) -> Node:
    """`node`, which stands at path `at`, with its relative paths started in `folder` instead.

    `folder` is the one of the file that says them, as seen from the folder of the file that extends it.
    """
    if folder in ("", "."):
        return node
    if isinstance(node.value, str) and _is_pattern(at):
        return Node(_joined(folder, node.value), node.mark, node.key)
    if isinstance(node.value, str) and _is_file(at) and not os.path.isabs(os.path.expanduser(node.value)):
        return Node(FilePath(folder, node.value).as_posix(), node.mark, node.key)
    if node.is_map and _leads_on(at):
        below = {key: rebased(child, folder, (*at, key)) for key, child in node.value.items()}
        return Node(below, node.mark, node.key)
    if isinstance(node.value, tuple) and _is_pattern(at):
        return Node(tuple(rebased(child, folder, (*at, i)) for i, child in enumerate(node.value)), node.mark, node.key)
    return node


def with_own_data(node: Node, spec: FilePath) -> Node:
    """The top of a spec that came with an installed llmspec, with the text that came with it by its whole path: what
    else it names is the user's, and starts in the working directory. So do models beside the folder of the specs of a
    checkout, such as `../runs/sentiment`, which another shipped spec makes there."""
    home = spec.absolute().parent
    if not shipped.installed(home):
        return node

    def found(child: Node, at: Path) -> Node:
        if child.is_map and _leads_on(at):
            return Node({key: found(one, (*at, key)) for key, one in child.value.items()}, child.mark, child.key)
        if isinstance(child.value, str) and _is_file(at):
            return Node(child.value.removeprefix("../"), child.mark, child.key)
        ours = isinstance(child.value, str) and _is_pattern(at) and (home / child.value).is_file()
        return Node(glob.escape(str(home / child.value)), child.mark, child.key) if ours else child

    return found(node, ())


def from_working_directory(spec: FilePath) -> str:
    """The working directory, as seen from where a spec's paths start: the paths of `--set` start there."""
    here, there = os.path.realpath(os.curdir), os.path.realpath(start(spec))
    try:
        return os.path.relpath(here, there)
    except ValueError:  # another drive
        return here


_MODELS = (("from",), *NAMED)
"""Keys of a phase that may name a folder with a model."""
_OTHERS: Mapping[str, Mapping[str, Any]] = {"tokenizer": tokenizers.TABLE, "chat_template": templates.TABLE}
"""Sections that are one part, which may read a file."""


def is_model(at: Path) -> bool:
    """Whether a model that is there already stands at `at`."""
    return at[:1] == ("phases",) and any(covers(keys, at[2:]) for keys in _MODELS if len(keys) == len(at) - 2)


def _keys() -> frozenset[str]:
    return frozenset(key for source in sources.TABLE.values() for key in source.relative)


def _is_pattern(at: Path) -> bool:
    """Whether a pattern of files, or a list of patterns, stands at `at`."""
    return at[:2] == _SOURCES and 4 <= len(at) <= 5 and at[3] in _keys()


def _is_file(at: Path) -> bool:
    """Whether the path of one file stands at `at`."""
    if at[-1:] == ("model",) and is_model(at[:-1]):
        return True
    table = _OTHERS.get(str(at[0]), {}) if len(at) == 2 else {}
    return any(at[1] in part.relative for part in table.values())


def _leads_on(at: Path) -> bool:
    return (len(at) < 4 and at[:2] == _SOURCES[: len(at)]) or (len(at) == 1 and at[0] in _OTHERS) or _leads_to_model(at)


def _leads_to_model(at: Path) -> bool:
    return at[:1] == ("phases",) and any(covers(keys, at[2:]) for keys in _MODELS)


def _joined(folder: str, pattern: str) -> str:
    """A pattern in a folder, whose own name may hold glob characters."""
    if os.path.isabs(os.path.expanduser(pattern)):
        return pattern
    return FilePath(glob.escape(folder), pattern).as_posix() if pattern else pattern
