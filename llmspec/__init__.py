"""One YAML file holds the whole life of a language model: architecture, tokenizer, data, training phases, decoding.

spec = llmspec.load_spec("quickstart", ["phases.pretrain.budget=1M tokens"]).spec
plan = llmspec.compile(spec)                     # everything a run will do, nothing allocated
run = llmspec.run(plan, "runs/mine")
model = llmspec.open("runs/mine")
print(model.generate("What is a comet?", temperature=0.5)[0].text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmspec.compiler import Plan as Plan
    from llmspec.compiler import compile_spec as compile
    from llmspec.decoding.language_model import LanguageModel as LanguageModel
    from llmspec.decoding.language_model import open_model as open
    from llmspec.formats.spec_models import load_spec as load_spec
    from llmspec.training.run import run as run

__all__ = ["LanguageModel", "Plan", "compile", "load_spec", "open", "run"]

_PLACES = {
    "load_spec": ("llmspec.formats.spec_models", "load_spec"),
    "compile": ("llmspec.compiler", "compile_spec"),
    "Plan": ("llmspec.compiler", "Plan"),
    "run": ("llmspec.training.run", "run"),
    "open": ("llmspec.decoding.language_model", "open_model"),
    "LanguageModel": ("llmspec.decoding.language_model", "LanguageModel"),
}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is first used, so that `import llmspec` costs nothing."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("llmspec")
        except PackageNotFoundError:  # a checkout that is not installed
            return "0"
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib
    import sys

    module, attribute = _PLACES[name]
    limit = sys.getrecursionlimit()
    try:
        return getattr(importlib.import_module(module), attribute)
    finally:
        sys.setrecursionlimit(limit)  # which tinygrad raises for the whole process
