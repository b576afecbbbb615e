"""Layers: `extends:` below a file, `--set` above it. Marks keep pointing to where a value was written.

Maps merge key by key. Lists and mixtures are replaced. A changed `kind` replaces its whole map, so that one kind's
settings never leak into another. `null` removes what is inherited, unless it is itself a setting there
(`max_grad_norm: null`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from llmspec.core import shipped
from llmspec.core.problems import Mark, Path, Problem, dotted, nearest
from llmspec.core.regular import NotRegular, TooLarge, read_regular
from llmspec.core.units import size
from llmspec.core.visible import quoted
from llmspec.parts.others import WHEEL
from llmspec.spec.models_below import Models, model_below
from llmspec.spec.recovery import Parsed, parse
from llmspec.spec.relative import folder_of, from_working_directory, is_model, rebased, with_own_data
from llmspec.spec.shape import Shape, default_of, spec_shape
from llmspec.spec.yaml12 import WINDOW, Node, described

MAX_BYTES = 2 << 20
"""Size of a spec file; more belongs under `data.sources`."""
MAX_CHAIN = 32
"""Specs that extend one another in a row, at most."""
MAX_STEPS = 32
"""Keys in the path of a `--set`, at most."""
REPLACED = "mixture"
"""The key whose map is replaced whole: the shares of two mixtures do not add up."""
_STEP = re.compile(r"""(?P<dot>\.?)(?:(?P<name>[^."\[\]=\s]+)|"(?P<quoted>(?:[^"\\]|\\.)*)")|\[(?P<index>\d{1,9})\]""")


@dataclass
class Layers:
    """Reads a spec with everything that it extends. Problems are collected, never raised."""

    problems: list[Problem] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    files: dict[FilePath, str] = field(default_factory=dict)
    """Every file read, the first one first -> its text."""
    known: dict[str, Node | None] = field(default_factory=dict)
    """What was made of each file with all that it extends, so that one that many extend is read and merged once."""
    models: Models | None = None
    """What opens models that specs extend."""

    def read(self, path: FilePath, named_at: Mark | None = None, chain: tuple[FilePath, ...] = ()) -> Node | None:
        """The node of a file and of what it extends; None where it cannot be read."""
        if _real(path) in map(_real, chain):
            circle = " → ".join(f"`{link.name}`" for link in (*chain, path))
            self.problems.append(
                Problem(
                    f"specs extend each other in a circle: {circle}",
                    ("extends",),
                    mark=named_at,
                    hint="one of them must not extend another",
                    consequence="it would never end",
                )
            )
            return None
        if len(chain) >= MAX_CHAIN:
            self.problems.append(
                Problem(
                    f"more than {MAX_CHAIN} specs extend one another in a row, down to `{path}`",
                    ("extends",),
                    mark=named_at,
                    hint="put what they have in common into fewer files",
                    consequence="nobody could say where a value comes from",
                )
            )
            return None
        if _real(path) not in self.known:
            text = self.text(path, named_at)
            if text is None:
                return None
            self.files[path] = text
            parsed = parse(text, str(path))
            self.problems += parsed.problems
            self.broken |= parsed.broken
            self.known[_real(path)] = None if parsed.root is None else self.layered(parsed, path, chain)
        return self.known[_real(path)]

    def layered(self, parsed: Parsed, path: FilePath, chain: tuple[FilePath, ...]) -> Node | None:
        root = parsed.root
        assert root is not None
        entries = dict(root.value)
        below: Node | None = None
        for item in self.extended(entries.pop("extends", None)):
            if item.is_map:
                base, problems = model_below(item, path, self.models)
                self.problems += problems
            else:
                named = beside(path, item.value)
                base = self.read(named, item.mark, (*chain, path))
                base = base and rebased(base, folder_of(item.value, named))
            if base is None:  # whatever it would have given is not missing, but unknown
                self.broken.add(())
            elif below is None:
                below = base
            else:
                below = merge(below, base)
        top = with_own_data(Node(entries, root.mark), path)
        return top if below is None else merge(below, top)

    def extended(self, node: Node | None) -> Iterator[Node]:
        """The files and models that an `extends:` names: a text is the path of a file, a map a model."""
        for item in () if node is None else node.children() if isinstance(node.value, tuple) else (node,):
            if (isinstance(item.value, str) or item.is_map) and item.value:
                yield item
            else:
                self.broken.add(())
                self.problems.append(
                    Problem(
                        f"expected the path of a spec, or a model, not {described(item.value)}",
                        ("extends",),
                        mark=item.mark,
                        hint="extends: base.yaml, or [base.yaml, more.yaml]; of a model {model: FILE or FOLDER}",
                    )
                )

    def text(self, path: FilePath, named_at: Mark | None) -> str | None:
        """A file's text; None, and a problem noted, where there is none to read."""
        mark = named_at or Mark(str(path), 1, 1)
        where: Path = ("extends",) if named_at else ()

        def wrong(message: str, hint: str = "", at: Mark = mark, key: Path = where) -> str | None:
            self.problems.append(Problem(message, key, hint=hint, mark=at))
            return None

        try:
            raw = read_regular(path, MAX_BYTES)
        except FileNotFoundError:
            if str(path) == "-":
                return wrong("a spec is read from a file, not from standard input", "save it as a file, and name that")
            return wrong(f"there is no file `{path}`", _other_file(path))
        except TooLarge as error:
            return wrong(f"`{path}` has {size(error.size)}, which is not a spec", "keep text in files of its own")
        except NotRegular as error:
            if path.is_dir():
                return wrong(f"`{path}` is a folder", f"name the spec file inside it: {_any_spec(path) or 'spec.yaml'}")
            return wrong(f"`{path}` is {error.strerror}", "save the spec as a file, and name that")
        except (OSError, ValueError) as error:
            return wrong(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}")
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            column = len(raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
            wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
            return wrong(
                "this is UTF-16" if wide else f"this is not UTF-8 (byte {raw[error.start]:#04x})",
                "save the file as UTF-8",
                Mark(str(path), line, column),
                (),
            )

    def override(self, root: Node, settings: Iterable[str]) -> Node:
        """`root` with `--set` on top: all of them make one layer, so that their order does not matter.

        Only an index into a list, which no layer can reach, is written in place.
        """
        layer = Node({}, Mark("--set", 0, 0))
        here = from_working_directory(next(iter(self.files))) if self.files else ""
        for setting in settings:
            try:
                steps, value = self.setting(setting)
                check_path(root, layer, steps, value)
                value = rebased(value, here, steps)
                if any(isinstance(step, int) for step in steps):
                    root = _write(root, steps, value)
                else:
                    layer = _write(layer, steps, value)
            except _Refused as refused:
                problem = refused.problem
                self.problems.append(
                    Problem(problem.message, problem.path, problem.hint, problem.consequence, argument(setting))
                )
        return merge(root, layer)

    def setting(self, setting: str) -> tuple[Path, Node]:
        """`a.b[0]=value` as a path and a node whose marks name the setting."""
        mark = argument(setting)
        steps: list[str | int] = []
        at = 0
        while (match := _STEP.match(setting, at)) and bool(match["dot"]) == (bool(steps) and match["index"] is None):
            name = match["name"] if match["quoted"] is None else match["quoted"].replace('\\"', '"')
            steps.append(int(match["index"]) if match["index"] else name)
            at = match.end()
        if not steps or isinstance(steps[0], int) or setting[at : at + 1] != "=":
            raise _Refused(
                Problem(
                    "expected a path, `=` and a value",
                    hint=f"--set {_respelt(setting) or 'phases.pretrain.optimizer.lr=3e-4'}",
                )
            )
        if len(steps) > MAX_STEPS:
            raise _Refused(
                Problem(f"a path of {len(steps):,} keys, and no value of a spec lies deeper than {MAX_STEPS}")
            )
        parsed = parse("value: " + setting[at + 1 :].strip(), mark.file)
        if parsed.problems or parsed.root is None or set(parsed.root.value) != {"value"}:
            why = parsed.problems[0].message if parsed.problems else "it holds more than one value"
            raise _Refused(
                Problem(
                    f"the value cannot be read: {why}",
                    tuple(steps),
                    hint=f"text may need quotes: --set '{dotted(tuple(steps))}=\"…\"'",
                )
            )
        return tuple(steps), _marked(parsed.root.value["value"], mark)


def _respelt(setting: str) -> str:
    """A setting in the wrong punctuation as it was meant: `a.b: 1`, `a.b = 1`, `a[b]=1`; "" where that is not plain."""
    meant = re.fullmatch(r"\s*(?P<key>[\w.\[\]'-]+?)\s*(?:=|:\s)\s*(?P<value>[^\s=].*)", setting)
    if not meant:
        return ""
    key = re.sub(r"\[['\"]?([A-Za-z_][\w-]*)['\"]?\]", r".\1", meant["key"])
    respelt = f"{key}={meant['value'].rstrip()}"
    return "" if respelt == setting else quoted(respelt)


def argument(setting: str) -> Mark:
    """Where a `--set` was given."""
    return Mark(f"--set {setting if len(setting) <= WINDOW else setting[: WINDOW - 1] + '…'}", 0, 0)


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem


def beside(path: FilePath, name: str) -> FilePath:
    """The file that `extends: name` means in the spec at `path`: one beside it, else the shipped spec of that name."""
    found = FilePath(path.parent, os.path.expanduser(name))
    return found if found.exists() else shipped.find(FilePath(name)) or found


def merge(base: Node, over: Node, shape: Shape | None = None, path: Path = ()) -> Node:
    """`over` on top of `base`."""
    shape = spec_shape() if shape is None and not path else shape
    if not (base.is_map and over.is_map) or path[-1:] == (REPLACED,):
        return over
    below, above = base.value, over.value
    if is_model(path) and ("model" in above) != ("model" in below) and above.keys() & {"model", *WHEEL}:
        return over  # another model, named in another way
    if _changes_kind(below, above, shape):
        kept = {k: n for k, n in above.items() if n.value is not None or k not in below}
        return Node(kept, over.mark, over.key)
    entries = dict(below)
    kinds = {"kind": (above.get("kind") or below["kind"]).value} if "kind" in below or "kind" in above else {}
    for key, node in above.items():
        child = shape.child(key, kinds) if shape else None
        if key not in below:
            entries[key] = node
        elif node.value is None and not (child and child.null_is_a_value):
            del entries[key]
        else:
            entries[key] = merge(below[key], node, child, (*path, key))
    return Node(entries, base.mark, base.key or over.key)


def _changes_kind(below: Mapping[str, Node], above: Mapping[str, Node], shape: Shape | None) -> bool:
    """Whether `above` picks another kind than `below` has, written or by default."""
    if "kind" not in above or (shape is not None and not shape.has_kinds):
        return False
    before = below["kind"].value if "kind" in below else shape.default if shape else None
    return before is not None and above["kind"].value not in (before, None)


def check_path(root: Node, layer: Node, steps: Path, value: Node) -> None:
    """Refuse a `--set` that could only be a slip: through a plain value, beyond a list, into a name that is not there.

    Raises:
        _Refused: with the problem.
    """
    node: Node | None = root
    shape: Shape | None = spec_shape()
    for i, step in enumerate(steps):
        here, last = steps[:i], i == len(steps) - 1
        if isinstance(step, int):
            if node is None or not isinstance(node.value, tuple):
                raise _Refused(
                    Problem(f"`{dotted(here)}` is not a list in the file", steps, hint=f"--set {dotted(here)}=[…]")
                )
            if step >= len(node.value):
                raise _Refused(Problem(f"`{dotted(here)}` has {len(node.value)} entries, counted from 0", steps))
            node, shape = node.value[step], None
            continue
        if node is not None and not node.is_map and node.value is not None:
            raise _Refused(
                Problem(f"`{dotted(here)}` holds {described(node.value)}, which has no `{step}` inside", steps)
            )
        # Where the file says nothing of a map, its usual entries are there.
        usual = default_of(shape.info) if shape is not None and shape.item and shape.info is not None else None
        names = list(node.value) if node is not None and node.is_map else list(usual or ())
        set_here = _at(layer, (*here, step)) is not None
        if shape is not None and shape.item and not last and step not in names and not set_here:
            near = nearest(step, names)
            what = str(here[-1]).removesuffix("s")
            raise _Refused(
                Problem(
                    f"there is no {what} `{step}` to set this in",
                    steps,
                    hint=f"did you mean `{near}`?" if near else f"there is {', '.join(names)}" if names else "",
                    consequence=f"a {what} with this one key would be created",
                )
            )
        kinds = {"kind": n.value} if node is not None and node.is_map and (n := node.value.get("kind")) else {}
        shape = shape.child(step, kinds) if shape else None
        node = node.value.get(step) if node is not None and node.is_map else None


def _at(node: Node, steps: Path) -> Node | None:
    for step in steps:
        if not node.is_map or step not in node.value:
            return None
        node = node.value[step]
    return node


def _write(node: Node, steps: Path, value: Node) -> Node:
    """A copy of `node` with `value` at a path; maps on the way are made where there are none."""
    if not steps:
        return value.under(node.key or value.key)
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        items = list(node.value)
        items[step] = _write(items[step], rest, value)
        return Node(tuple(items), node.mark, node.key)
    entries = dict(node.value) if node.is_map else {}
    entries[step] = _write(entries.get(step) or Node({}, value.mark, value.mark), rest, value)
    return Node(entries, node.mark, node.key)


def _marked(node: Node, mark: Mark) -> Node:
    """The same value, written in a `--set`."""
    if node.is_map:
        return Node({k: _marked(n, mark) for k, n in node.value.items()}, mark, mark)
    return Node(
        tuple(_marked(n, mark) for n in node.value) if isinstance(node.value, tuple) else node.value, mark, mark
    )


def _real(path: FilePath) -> str:
    try:
        return str(path.resolve())
    except (OSError, ValueError, RuntimeError):  # a circle of links, or no path at all
        return str(path)


def _any_spec(folder: FilePath) -> str:
    return ", ".join(sorted(p.name for p in folder.glob("*.y*ml"))[:3])


def _other_file(path: FilePath) -> str:
    """A hint: the nearest file name beside a path that does not exist."""
    try:
        names = [p.name for p in path.parent.iterdir() if p.is_file()]
    except OSError:
        return f"there is no folder `{path.parent}`"
    if near := next(
        (name for name in names if FilePath(name).stem == path.name and name.endswith((".yaml", ".yml"))), None
    ) or nearest(path.name, names):
        return f"did you mean `{path.parent / near}`?"
    if near := nearest(path.stem, shipped.names()):
        return f"did you mean the shipped spec `{near}`?"
    return f"shipped specs are: {', '.join(shipped.names())}" if len(path.parts) == 1 and shipped.names() else ""
