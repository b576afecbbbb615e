"""Models of others that a spec extends: what their files say of network, tokenizer, chat template and decoding."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmspec.data.fetch import Progress
    from llmspec.parts.others import StartModel
    from llmspec.spec import Loaded


def settings_of(start: StartModel, base: str, offline: bool = True, progress: Progress | None = None) -> dict[str, Any]:
    """The spec that describes a model, as plain data with whole paths; a wheel is downloaded unless `offline`.

    Raises LlmspecError where there is no such model, or its files are not understood.
    """
    from llmspec.core.problems import RunError
    from llmspec.formats.bases import path_of
    from llmspec.formats.foreign import ForeignModel
    from llmspec.formats.opening import stored_model
    from llmspec.formats.wheel_models import in_wheel
    from llmspec.parts.tokenizers import TABLE

    path = in_wheel(start, offline, progress) if start.model is None else path_of(base, start)
    found = stored_model(path)
    if not isinstance(found, ForeignModel):
        raise RunError(
            f"{start.said} is a model of llmspec, which has a spec of its own",
            hint=f"extends: {start.said}/spec.yaml, or the spec that the run was started with",
        )
    settings = dict(found.settings())
    tokenizer, folder = settings["tokenizer"], found.base().absolute()
    files = {key: str(folder / tokenizer[key]) for key in TABLE[tokenizer["kind"]].relative if tokenizer.get(key)}
    return {**settings, "tokenizer": {**tokenizer, **files}}


def models(offline: bool = True, progress: Progress | None = None) -> Callable[[StartModel, str], dict[str, Any]]:
    """What opens the models that a spec extends, for `llmspec.spec.read_spec`."""
    return partial(settings_of, offline=offline, progress=progress)


def load_spec(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Loaded:
    """Read and check a spec; a model in a wheel that it extends is downloaded where it is not in the cache.

    Raises:
        SpecError: with every problem, in the order of the file.
        TypeError: where `path` is no path, or `overrides` are no texts such as `seed=3`.
    """
    from llmspec.spec import load_spec

    return load_spec(path, overrides, models(offline=False))
