"""What tinygrad reads of the environment, and what of tinygrad is changed when it is imported.

tinygrad 0.14 reads some 150 environment variables with names that mean something else to other programs (`DEBUG=true`,
`PROFILE=dev`, `IMAGE=repo/app:1`, `NO_COLOR=`). It is shown only those that say where something lies, what llmspec
gives it (`given`: never through the environment, which belongs to the user), and what `LLMSPEC_TINYGRAD` names, such as
`LLMSPEC_TINYGRAD="DEBUG=2 BEAM_TIMEOUT_SEC=20"`. A tinygrad that was imported before keeps what it has read.
"""

from __future__ import annotations

import builtins
import functools
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from llmspec.core.problems import RunError

VARIABLE = "LLMSPEC_TINYGRAD"
PLACES = ("CUDA_PATH", "LD_LIBRARY_PATH", "NVJITLINK_PATH", "NVRTC_PATH", "ROCM_PATH", "XDG_CACHE_HOME")
"""Variables that say where something lies: tinygrad may read them as they are."""
READERS = ("tinygrad", "tinygrad.helpers")
"""The modules through which tinygrad reads the environment."""

DEFAULTS = {"SPEC": "0"}
"""Where llmspec's defaults are not tinygrad's. SPEC: whether it proves its own graphs anew as it rewrites them, a fifth
of the time in which a step is captured; tests of every architecture do."""
given: dict[str, str] = {}
"""What llmspec gives tinygrad to read."""
early = False
"""Whether the user had imported tinygrad before."""
_patches: dict[str, dict[str, Callable[[Any], None]]] = defaultdict(dict)


class View:
    """Stands for the module `os` where tinygrad reads the environment; `behind` is what else it reads than `given`."""

    def __init__(self, behind: Callable[[str], str | None]) -> None:
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def getenv(self, key: str, default: Any = None) -> Any:
        """Like os.getenv."""
        value = named().get(key, given.get(key))
        if value is None:
            value = self._behind(key)
        return DEFAULTS.get(key, default) if value is None else value


def named() -> dict[str, str]:
    """What LLMSPEC_TINYGRAD says, by variable. Raises RunError for what is not NAME=VALUE."""
    return _parsed(os.environ.get(VARIABLE, ""))


@functools.lru_cache(8)
def _parsed(text: str) -> dict[str, str]:
    words = text.split()
    if wrong := [w for w in words if not re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", w)]:
        raise RunError(
            f"{VARIABLE}: {wrong[0][:60]!r} is not NAME=VALUE",
            f'{VARIABLE}="DEBUG=2 NOOPT=1"',
            "tinygrad would not see it",
        )
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def stand() -> None:
    """Stand between tinygrad, once it is imported, and the environment. Nothing is imported now."""
    global early
    early = early or (not given and "tinygrad.helpers" in sys.modules)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())  # importlib.abc takes 7 ms to import


def give(**variables: str) -> None:
    """Let tinygrad read these, now and later, whether it is imported yet or not."""
    given.update(variables)
    helpers: Any = sys.modules.get("tinygrad.helpers")
    if helpers is None:
        return
    if not isinstance(helpers.os, View):  # the user imported it before: the environment stays what it reads otherwise
        helpers.os = View(os.environ.get)
    helpers.getenv.cache_clear()


def when_imported(module: str, name: str, patch: Callable[[Any], None]) -> None:
    """Call `patch(module)` now if the module is there, or as soon as it is; another patch of this name replaces it."""
    _patches[module][name] = patch
    if module in sys.modules:
        patch(sys.modules[module])


class _Finder:
    """Finds tinygrad's modules as usual, and loads some of them in our way."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in READERS and name not in _patches:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in READERS:
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        try:
            super().exec_module(module)
        except ValueError as error:  # a word where tinygrad wants a number
            if not named():
                raise
            raise RunError(f"{VARIABLE}: tinygrad cannot read it: {error}", f'{VARIABLE}="DEBUG=2 NOOPT=1"') from error
        for patch in list(_patches.get(module.__name__, {}).values()):
            patch(module)


_view = View(lambda key: os.environ.get(key) if key in PLACES else None)


def _import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    found = builtins.__import__(name, globals, locals, fromlist, level)
    return _view if found is os and not fromlist else found
