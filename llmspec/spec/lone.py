"""A part that is given on its own, outside a spec: its settings in YAML, at the command line or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from llmspec.core.problems import LlmspecError, SpecError, one_of
from llmspec.core.regular import read_regular
from llmspec.spec.check import whole_part
from llmspec.spec.load import locate
from llmspec.spec.recovery import parse
from llmspec.spec.yaml12 import Tree

MOST = 1 << 20
"""Bytes of such a file, at most."""


def read_part(text: str, name: str, table: Mapping[str, type[BaseModel]]) -> Any:
    """The part of a table that a text describes: YAML settings such as `{kind: length, most: 40}`, the name of a kind
    whose settings all have defaults, or the path of a .yaml file with settings. `name` is what gives it, such as
    `--by`.

    Raises LlmspecError where the file cannot be read, and SpecError with all that is wrong with the settings.
    """
    file = name
    if text.strip().endswith((".yaml", ".yml")) and "\n" not in text:
        file = text.strip()
        try:
            text = read_regular(Path(file).expanduser(), MOST).decode("utf-8")
        except OSError as error:
            raise LlmspecError(f"{name}: {file} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise LlmspecError(f"{name}: {file} is not UTF-8 text") from None
    elif text.strip().isidentifier():
        if text.strip() not in table:
            raise LlmspecError(
                f"{name}: there is no kind `{text.strip()}`",
                f"{one_of(text.strip(), table)}",
            )
        text = f"{{kind: {text.strip()}}}"
    read = parse(text, file)
    if read.root is None or read.problems:
        raise SpecError(list(read.problems))
    tree = Tree.of(read.root)
    built, problems = whole_part(tree, table)
    if problems := (*problems, *(() if built is None else built.lone())):
        raise SpecError([replace(p, mark=p.mark or locate(p.path, tree, ((Path(file), text),))) for p in problems])
    return built
