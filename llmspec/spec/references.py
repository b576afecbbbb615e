"""Names that sections use of each other: sources in mixtures and budgets, phases in `from:`.

These checks read the plain data, so that a phase with another mistake is checked too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmspec.core import run_names
from llmspec.core.problems import Path, Problem, nearest
from llmspec.core.units import Budget
from llmspec.parts.others import NAMED, named_in
from llmspec.spec.foreign import stands_for
from llmspec.spec.messages import MOST_ALIKE, missing_key, more, shown, slipped
from llmspec.spec.schema import Spec
from llmspec.spec.yaml12 import Tree

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_references(tree: Tree) -> Iterator[Problem]:
    """Problems of names."""
    sources, phases = _names(tree, ("data", "sources")), _names(tree, ("phases",))
    yield from _spelled(tree, ("data", "sources"), "source", "mixtures and budgets name it")
    yield from _spelled(tree, ("phases",), "phase", "its folder in the run directory has this name")
    yield from _folders(tree)
    yield from _nothing_to_read(tree)
    for name, phase in _maps(tree, ("phases",)):
        path = ("phases", name)
        if sources is not None:
            yield from _mixture(tree, phase, path, sources)
        yield from _budget(phase, path)
        start = phase.get("from")
        if isinstance(start, str) and phases is not None and start not in phases:
            yield Problem(
                f"no phase is called `{shown(start)}`",
                (*path, "from"),
                hint=_choose(start, [p for p in phases if p != name]),
                consequence="there would be no weights to start from",
            )
        yield from _others(phase, path, name, phases)
    yield from _cycles(tree)
    yield from _circles(tree)


def _others(phase: Mapping[str, Any], path: Path, name: str, phases: list[str] | None) -> Iterator[Problem]:
    """Models beside a phase, such as a teacher, that no phase makes."""
    for at, other in (found for keys in NAMED for found in named_in(phase, keys)):
        if isinstance(other, str) and phases is not None and other not in phases:
            yield Problem(
                f"no phase is called `{shown(other)}`",
                (*path, *at),
                hint=_choose(other, [p for p in phases if p != name]) or "a model that is there: `{model: FOLDER}`",
                consequence=f"there would be no {at[-1]}",
            )


def _circles(tree: Tree) -> Iterator[Problem]:
    """Phases that need themselves, one way or another; circles of `from:` alone are told by `_cycles`."""
    phases = dict(_maps(tree, ("phases",)))
    needs = {
        name: [
            (at, n)
            for keys in (("from",), ("reward",), *NAMED)
            for at, n in named_in(phase, keys)
            if isinstance(n, str) and n in phases
        ]
        for name, phase in phases.items()
    }
    told = set[str]()
    for begin in phases:
        for at, first in needs[begin]:
            if at == ("from",) or begin in told:
                continue
            reached, waiting = {first}, [first]
            while waiting:
                found = {n for _, n in needs[waiting.pop()]} - reached
                reached |= found
                waiting += found
            if begin in reached:
                told |= reached
                yield Problem(
                    f"the {at[-1]} of `{begin}` is `{first}`" + (f", which needs `{begin}`" if first != begin else ""),
                    ("phases", begin, *at),
                    hint="a phase that is trained without it",
                    consequence="neither could run first" if first != begin else "it could never run",
                )


def _nothing_to_read(tree: Tree) -> Iterator[Problem]:
    """Phases without any data, unless a key that looks like `data` has been told of already."""
    if _at(tree, ("phases",)) and not tree.broken & {(), ("data",)} and "data" not in tree.data:
        others = [key for key in tree.data if key not in Spec.model_fields]
        if nearest("data", others) is None and not any(stands_for(key, "") == "data" for key in others):
            yield missing_key("data", "sources of text", ())


def _at(tree: Tree, path: Path) -> Any:
    data: Any = tree.data
    for step in path:
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def _maps(tree: Tree, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    found = _at(tree, path)
    if isinstance(found, Mapping):
        yield from ((name, value) for name, value in found.items() if isinstance(value, Mapping))


def _names(tree: Tree, path: Path) -> list[str] | None:
    """The names in a map; None where they are not all known."""
    found = _at(tree, path)
    if not isinstance(found, Mapping) or any(path[:i] in tree.broken for i in range(len(path) + 1)):
        return None
    return [*found, *(str(p[-1]) for p in tree.broken if p[:-1] == path)]


def _spelled(tree: Tree, path: Path, what: str, why: str) -> Iterator[Problem]:
    names = _at(tree, path)
    wrong = [n for n in names if not _NAME.fullmatch(n)] if isinstance(names, Mapping) else []
    for name in wrong[:MOST_ALIKE]:
        yield Problem(
            f"`{shown(name)}` cannot name a {what}: a letter (a to z) or digit, then letters, digits, `.`, `_` and `-`",
            (*path, name),
            consequence=why,
            mark=tree.key_mark((*path, name)),
        )
    if rest := wrong[MOST_ALIKE:]:
        yield more(len(rest), f"names that no {what} can have", path)


def _folders(tree: Tree) -> Iterator[Problem]:
    """A phase's folder in the run directory has its name: what stands there already, or twice, cannot be one."""
    found = _at(tree, ("phases",))
    phases = [name for name in found if _NAME.fullmatch(name)] if isinstance(found, Mapping) else []
    first: dict[str, str] = {}
    for name in phases:
        twin = first.setdefault(name.lower(), name)
        what, consequence = run_names.wrong(name)
        if twin != name:
            what = f"differs from `{twin}` in nothing but capital letters"
            consequence = "on many file systems both would be one folder"
        if what:
            yield Problem(
                f"`{shown(name)}` cannot name a phase: it {what}",
                ("phases", name),
                hint=f"such as `{run_names.free(name, phases)}`",
                consequence=consequence,
                mark=tree.key_mark(("phases", name)),
            )


def _choose(word: str, names: list[str]) -> str:
    near = nearest(word, names)
    some = ", ".join(f"`{shown(n)}`" for n in names[:MOST_ALIKE]) + (" ..." if len(names) > MOST_ALIKE else "")
    return f"did you mean `{near}`?" if near else f"there is {some}" if names else ""


def _mixture(tree: Tree, phase: Mapping[str, Any], path: Path, sources: list[str]) -> Iterator[Problem]:
    mixture: Any = phase.get("mixture")
    known = set(sources)
    unknown = [s for s in mixture if s not in known] if isinstance(mixture, Mapping) else []
    unused = [s for s in sources if s not in mixture] if unknown else []
    for source in unknown[:MOST_ALIKE]:
        yield Problem(
            f"no source is called `{shown(source)}`",
            (*path, "mixture", source),
            hint=slipped(source, mixture, path) or _choose(source, unused or sources),
            consequence="the phase would have nothing to read for it",
            mark=tree.key_mark((*path, "mixture", source)),
        )
    if rest := unknown[MOST_ALIKE:]:
        yield more(len(rest), "unknown sources", (*path, "mixture"))


def _budget(phase: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    mixture = phase.get("mixture")
    try:
        source = Budget.parse(phase.get("budget")).source
    except ValueError:
        return
    if source is not None and isinstance(mixture, Mapping) and source not in mixture:
        yield Problem(
            f"epochs are counted on `{shown(source)}`, which is not in the mixture",
            (*path, "budget"),
            hint=_choose(source, list(mixture)),
            consequence="the phase would never end",
        )


def _cycles(tree: Tree) -> Iterator[Problem]:
    """One problem for each circle of `from:`."""
    starts = {name: phase["from"] for name, phase in _maps(tree, ("phases",)) if isinstance(phase.get("from"), str)}
    seen: set[str] = set()
    for name in starts:
        chain: list[str] = []
        at: str | None = name
        while at in starts and at not in seen:
            seen.add(at)
            chain.append(at)
            at = starts[at]
        if at in chain:
            circle = chain[chain.index(at) :]
            path = ("phases", circle[-1], "from")
            if len(circle) == 1:
                yield Problem(
                    f"the phase `{at}` starts from itself",
                    path,
                    hint="leave `from:` out, or name another phase",
                    consequence="it could never run",
                )
            else:
                yield Problem(
                    "phases start from each other in a circle: " + " → ".join(f"`{c}`" for c in (*circle, at)),
                    path,
                    hint="one of them starts without `from:`",
                    consequence="none of them could run first",
                )
