"""docs/reference.md: every key of a spec, every kind of part, every command and Python name, read off the program.

python docs/generate.py writes it; python docs/spec_reference.py prints it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

if __name__ == "__main__":  # of this checkout, installed or not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmspec.core import devices
from llmspec.core.units import Text
from llmspec.explain.part import papers, sentences
from llmspec.parts import filters
from llmspec.parts.base import Part
from llmspec.spec.decoding import Decoding
from llmspec.spec.shape import Shape, allows_none, default_of, description, fields_of, is_union, shape_of, spec_shape

HEAD = """\
# Reference

Every key of a spec, every command, Python's names, every environment variable. Made from the program itself by `python
docs/generate.py`; a test compares them. The same is at hand in the terminal, for a spec of
yours: `llmspec explain SPEC --part model.attention`; and in an editor, by `llmspec schema`.

## How a spec is read
- A spec is YAML 1.2: `3e-4` is a number, `no` is text. A key that llmspec does not know is a mistake, reported with its
  line and the nearest right spelling. All mistakes are reported at once.
- `extends: quickstart` (a shipped spec or a file, or a list of them) puts specs below this one: maps merge; lists and
  mixtures are replaced; a changed `kind` replaces its whole map; `null` removes what is inherited.
- `--set phases.pretrain.optimizer.lr=3e-4` on the command line overrides any key.
- A part is a map with a `kind:`; where `kind` is left out, the default kind is meant.
- Quantities carry their unit: `2M tokens` (k, M, B, T), `400 steps`, `3 epochs of wiki`, `2 PFLOPs`, `85%`, `8 GiB`.
- Relative paths start in the folder of the file that says them.

In the tables, *default* is what a key means where it is left out; **required** keys have none. "open": the meaning says
what happens, or llmspec decides, and `llmspec explain SPEC` shows what and why.
"""
ENVIRONMENT = {
    "LLMSPEC_CACHE": "The folder for what can be made again: downloads, tokens, compiled kernels, measurements of this "
    "machine. Default: `llmspec` in `$XDG_CACHE_HOME`, `~/.cache` or, on macOS, `~/Library/Caches`. It must be "
    "writable by you alone. Deleting it costs time and nothing else.",
    "LLMSPEC_THREADS": "Threads to compute with on a CPU, 1 to 64. Default: `OMP_NUM_THREADS`, else as many as this "
    "process may use (affinity, container quota). The results are the same bits for any number.",
    "LLMSPEC_TINYGRAD": 'Variables for tinygrad, such as `"DEBUG=2 BEAM_TIMEOUT_SEC=20"`; it sees no others.',
    "LLMSPEC_TRACEBACK": "1: a failure also shows Python's traceback, for a bug report.",
    "LLMSPEC_INSTRUCTIONS": "For tests: `avx2` or `sse` compiles the C functions for less than this processor has.",
    "LLMSPEC_HYPOTHESIS": "For tests: `thorough` draws forty times as many examples.",
    "LLMSPEC_QUICKSTART": "For tests: a finished run of the quickstart, instead of training it again.",
}
OTHERS = {
    "OMP_NUM_THREADS": "Threads, where `LLMSPEC_THREADS` is not set; at most as many as there are cores.",
    "DEV": "The device that `device: auto` means: `CPU`, `CUDA`, `METAL`, `NV`, `AMD`.",
    "CC": "The C compiler to try first; without one, that of the package ziglang is used.",
    "XDG_CACHE_HOME": "Where the cache folder is, if `LLMSPEC_CACHE` is not set.",
    "NO_COLOR": "Not empty: no colours on a terminal.",
}
OPEN = "open"


def reference() -> str:
    """The whole text."""
    assert set(ENVIRONMENT) == set(devices.VARIABLES), "say what each variable of llmspec/core/devices.py does"
    return "\n".join([HEAD, *Sections().written(), *commands(), *python(), *environment()]) + "\n"


class Sections:
    """The sections of a spec; one that stands in several places is described once, and referred to elsewhere."""

    def __init__(self) -> None:
        self.described: dict[Any, str] = {}
        """Where each section is described, settled when it is first named."""
        self.done: set[Any] = set()

    def written(self) -> Iterator[str]:
        yield "## The file\n"
        yield from self.section("", spec_shape().parts[""], 2)

    def section(self, path: str, part: type[BaseModel], level: int) -> Iterator[str]:
        """Keys of a section without kinds, and below it what its keys hold."""
        if path:
            yield f"{'#' * level} `{path}`\n"
        yield _first_paragraph(part) + "\n"
        if part is Decoding:
            own = {k: i for k, i in fields_of(part).items() if k not in {k for f in part.joined for k in fields_of(f)}}
            yield from table(part, own)
            yield from self.chain(path)
            return
        fields = fields_of(part)
        yield from table(part, fields, self.link(path, fields))
        yield from self.below(path, fields, level)

    def chain(self, path: str) -> Iterator[str]:
        """The decoding filters, whose keys stand side by side in one section."""
        yield f"Filters, in the order in which they run unless `{path}.order` says otherwise:\n"
        for name, part in filters.TABLE.items():
            yield from self.kind(name, part, fields_of(part))

    def link(self, path: str, fields: Mapping[str, FieldInfo]) -> dict[str, str]:
        """Of keys that hold a section or a part: where it is described."""
        out = {}
        for key, info in fields.items():
            shape = shape_of(info)
            if shape.parts or shape.item:
                where = ".".join(filter(None, (path, key))) + (".<name>" if shape.item else "")
                where = self.described.setdefault(_identity(shape.item or shape), where)
                out[key] = f"[`{where}`](#{_anchor(where)})"
        return out

    def below(self, path: str, fields: Mapping[str, FieldInfo], level: int) -> Iterator[str]:
        for key, info in fields.items():
            shape = shape_of(info)
            where = ".".join(filter(None, (path, key)))
            if shape.item:
                shape, where = shape.item, f"{where}.<name>"
            identity = _identity(shape)
            if not shape.parts or self.described[identity] != where or identity in self.done:
                continue
            self.done.add(identity)
            if shape.has_kinds:
                yield from self.kinds(where, shape, level + 1)
            else:
                yield from self.section(where, shape.parts[""], level + 1)

    def kinds(self, path: str, shape: Shape, level: int) -> Iterator[str]:
        """A part: what all its kinds share, then kind by kind."""
        every = [fields_of(part) for part in shape.parts.values()]
        shared = {
            key: info
            for key, info in every[0].items()
            if key != "kind" and len(every) > 1 and all(_same(info, fields.get(key)) for fields in every)
        }
        names = ", ".join(f"`{name}`" for name in shape.parts)
        default = f" · default `{shape.default}`" if shape.default else ""
        yield f"{'#' * level} `{path}`\n"
        yield f"`kind:` {names}{default}\n"
        if shared:
            yield "Keys of every kind:\n"
            yield from table(next(iter(shape.parts.values())), shared, self.link(path, shared))
        for name, part in shape.parts.items():
            self.described.setdefault(_identity(Shape({"": part})), path)
            own = {k: i for k, i in fields_of(part).items() if k not in shared}
            yield from self.kind(name, part, own, self.link(path, own))
        for fields in every:
            yield from self.below(path, fields, level)

    def kind(
        self, name: str, part: type[BaseModel], fields: Mapping[str, FieldInfo], links: Mapping[str, str] = {}
    ) -> Iterator[str]:
        """One kind: what it is, its formula, its papers, its own keys."""
        own = next(sentences(part), "") if issubclass(part, Part) else _first_paragraph(part)
        lines = [f"**`{name}`** · {own}"]
        if issubclass(part, Part):
            lines += [f"`{part.formula.replace('`', '')}`"] if part.formula else []
            lines += [f"*{'; '.join(papers(part))}*"] if papers(part) else []
        yield "  \n".join(lines) + "\n"
        yield from table(part, {k: i for k, i in fields.items() if k != "kind"}, links)


def table(part: type[BaseModel], fields: Mapping[str, FieldInfo], links: Mapping[str, str] = {}) -> Iterator[str]:
    """The keys of a part or a section as a table; nothing where there are none."""
    if not fields:
        return
    yield "| key | what | default | meaning |\n|---|---|---|---|"
    for key, info in fields.items():
        what = links.get(key) or ", ".join(filter(None, (kind_of_value(info.annotation), limits(info))))
        yield f"| `{key}` | {_cell(what)} | {_cell(default(info))} | {_cell(description(part, key))} |"
    yield ""


def kind_of_value(annotation: Any) -> str:
    """What may be written: `whole number`, `list of text`, an example of a quantity."""
    if hasattr(annotation, "__metadata__"):
        return kind_of_value(get_args(annotation)[0])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if is_union(annotation):
        found = dict.fromkeys(kind_of_value(a) for a in arguments if a is not type(None))
        return " or ".join(found)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {kind_of_value(arguments[0]).removeprefix('such as ')}"
    if origin is dict:
        return f"map of {kind_of_value(arguments[0])} to {kind_of_value(arguments[1]).removeprefix('such as ')}"
    if isinstance(annotation, type) and issubclass(annotation, Text):
        examples = annotation.examples or tuple((annotation.__doc__ or "").split("`")[1::2])
        return "such as " + ", ".join(f"`{example}`" for example in examples)
    names = {int: "whole number", float: "number", bool: "`true` or `false`", str: "text"}
    return names.get(annotation, "a map" if isinstance(annotation, type) else "a value")


def limits(info: FieldInfo) -> str:
    """The bounds of a value, in signs."""
    found = []
    for rule in info.metadata:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            if (bound := getattr(rule, name, None)) is not None:
                found.append(f"{sign} {_number(bound)}")
        if least := getattr(rule, "min_length", None):
            found.append("not empty" if least == 1 else f"at least {least}")
        if pattern := getattr(rule, "pattern", None):
            found.append(f"`{pattern}`")
    return ", ".join(found)


def default(info: FieldInfo) -> str:
    """What a key that is left out means."""
    if info.is_required():
        return "**required**"
    value = default_of(info)
    if value is None:
        return OPEN
    if isinstance(value, Part):
        return f"`{value.kind}`" if getattr(value, "kind", "") else "its defaults"
    if isinstance(value, BaseModel):
        return "its defaults"
    text = _plain(value)
    return f"`{text}`" + (" (`null` turns it off)" if allows_none(info.annotation) else "")


def _plain(value: Any) -> str:
    if isinstance(value, Part):
        return f"{{kind: {value.kind}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _number(bound: float) -> str:
    power = int(bound).bit_length() - 1
    if power > 10 and bound == 1 << power:
        return f"2^{power}"
    return f"{bound:g}" if bound % 1 else f"{int(bound):,}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<name>", "&lt;name&gt;")


def _identity(shape: Shape) -> Any:
    return frozenset((kind, part) for kind, part in shape.parts.items())


def _same(one: FieldInfo, other: FieldInfo | None) -> bool:
    return other is not None and one.annotation == other.annotation and default(one) == default(other)


def _anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _first_paragraph(part: type) -> str:
    return " ".join((part.__doc__ or "").strip().split("\n\n")[0].split())


def commands() -> Iterator[str]:
    """Every verb with its arguments and options, as `--help` has them."""
    import typer

    from llmspec.cli.app import app

    yield "## Commands\n"
    yield "`llmspec COMMAND --help` says the same.\n"
    group: Any = typer.main.get_command(app)
    for name, verb in group.commands.items():
        arguments = " ".join(_metavar(p) for p in verb.params if p.param_type_name == "argument")
        yield f"### `llmspec {' '.join(filter(None, (name, arguments)))}`\n"
        yield f"{' '.join((verb.help or '').split())}\n"
        yield "| option | what it does |\n|---|---|"
        for option in verb.params:
            if option.param_type_name == "option" and not getattr(option, "hidden", False):
                names = ", ".join(f"`{o}`" for o in option.opts)
                yield f"| {names} | {_cell(getattr(option, 'help', '') or '')} |"
        yield ""


def _metavar(parameter: Any) -> str:
    word = parameter.metavar or parameter.human_readable_name
    return word if parameter.required else f"[{word}]"


def python() -> Iterator[str]:
    """Every public name of the package, as its docstring has it."""
    import llmspec

    yield "## Python\n"
    yield "`import llmspec` costs nothing: each name is imported when it is first used.\n"
    for name in ("load_spec", "compile", "run", "open"):
        yield from _described(f"llmspec.{name}", getattr(llmspec, name))
    yield "### `llmspec.LanguageModel`\n"
    yield "```text\n" + inspect.cleandoc(llmspec.LanguageModel.__doc__ or "") + "\n```\n"
    methods = {n: m for owner in reversed(llmspec.LanguageModel.__mro__) for n, m in vars(owner).items()}
    for name, method in methods.items():
        if inspect.isfunction(method) and not name.startswith("_"):
            yield from _described(f"LanguageModel.{name}", method)
    assert {"LanguageModel", "Plan", "load_spec", "compile", "run", "open"} == set(llmspec.__all__)


def _described(name: str, function: Any) -> Iterator[str]:
    signature = inspect.signature(function)
    arguments = [str(p) for key, p in signature.parameters.items() if key != "self"]
    stars = [i for i, p in enumerate(signature.parameters.values()) if p.kind is p.KEYWORD_ONLY]
    if stars and not any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        arguments.insert(stars[0] - ("self" in signature.parameters), "*")
    text = ", ".join(arguments).replace("'", "")
    result = str(signature.return_annotation).replace("'", "")
    yield f"### `{name}`\n"
    yield f"```python\n{name}({text}) -> {result}\n```\n"
    yield "```text\n" + inspect.cleandoc(function.__doc__ or "") + "\n```\n"


def environment() -> Iterator[str]:
    """Every environment variable that is read."""
    yield "## Environment variables\n"
    yield from _variables(ENVIRONMENT.items())
    yield "Of other programs, these are read too:\n"
    yield from _variables(OTHERS.items())


def _variables(known: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield "| variable | what it does |\n|---|---|"
    for name, what in known:
        yield f"| `{name}` | {_cell(what)} |"
    yield ""


if __name__ == "__main__":
    print(reference(), end="")
