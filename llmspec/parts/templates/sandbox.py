"""Jinja templates of others, run without trust: no files, no attributes of Python, bounded loops, sizes and time.

What a template may use is what chat templates of Hugging Face models use (huggingface/transformers,
chat_template_utils.py): loop controls, `tojson`, `raise_exception`, `strftime_now`, blocks of `generation`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from llmspec.core.problems import DataError
from llmspec.parts.templates import jinja_filters, limits
from llmspec.parts.templates.limits import Meter, TooMuch, local, meter

SOURCE = 1 << 20
"""Characters of a template, at most."""
NODES = 1 << 15
"""Expressions and statements of a template, at most."""
NAME = "<template>"
"""What Jinja calls a template without a file, in tracebacks."""
FILTERS = (
    "abs capitalize count d default dictsort e escape first float groupby indent int items join last length list lower "
    "map max min reject rejectattr replace reverse round safe select selectattr sort string sum title trim truncate "
    "unique upper wordcount"
)
"""Jinja's own filters that a template may use."""


class TemplateRefusal(DataError):
    """A template that cannot be used, or will not render what it is given."""


# -- the environment -------------------------------------------------------------------------------------------------
@functools.cache
def environment() -> Any:
    """Jinja as it is offered to templates. Raises TemplateRefusal where the package is missing."""
    try:
        import jinja2
        import jinja2.ext
        import jinja2.sandbox
        import jinja2.utils
    except ImportError:
        raise TemplateRefusal(
            "chat templates of the kind `jinja` need the package jinja2, which is not installed",
            hint="pip install jinja2",
        ) from None
    from llmspec.parts.templates.jinja_tree import Bounds, Generation

    class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            return Bounds().visit(super()._parse(source, name, filename))

        def wrap_str_format(self, value: Any) -> Any:
            name = getattr(value, "__name__", "")
            if name in ("format", "format_map") and isinstance(getattr(value, "__self__", None), str):
                raise TooMuch(f"`.{name}()` is not offered here")
            return None

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            limits.operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
            owner = getattr(__function, "__self__", None)
            if owner is not None:
                args = limits.method(owner, getattr(__function, "__name__", ""), args, kwargs)
            return limits.checked(super().call(__context, __function, *args, **kwargs))

    made = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, Generation],
        finalize=_finalize,
        cache_size=0,
    )
    made.filters = {name: jinja_filters.bounded(name, made.filters[name]) for name in FILTERS.split()}
    made.filters |= {"tojson": _tojson, Bounds.STEP: _step, Bounds.TICK: _ticked, Bounds.MADE: limits.checked}
    made.filters |= {Bounds.CONCAT: limits.concatenated, Bounds.SLICED: _sliced, Bounds.WRITTEN: _finalize}
    made.tests = {name: jinja_filters.timed(name, run) for name, run in made.tests.items()}
    made.globals = {
        "range": made.globals["range"],
        "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        "namespace": _namespace(jinja2.utils.Namespace),
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
    }
    return made


def _finalize(value: Any) -> Any:
    """Counts what is written, also within blocks that are kept."""
    meter().step(limits.weigh(value))
    return value


def _step(made: int) -> str:
    return meter().step(made)


def _ticked(value: Any) -> Any:
    meter().tick()
    return value


def _sliced(value: Any) -> Any:
    meter().tick()
    if isinstance(value, str | list | tuple):
        meter().hold(len(value))  # what stands in it is there already
    return value


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    limits.nested(value, indent, separators)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _namespace(base: Any) -> Any:
    """Jinja's namespace, which keeps no attribute that begins with an underscore."""

    class Plain(base):  # type: ignore[misc]
        def __init__(*args: Any, **kwargs: Any) -> None:
            self, *rest = args
            found = dict(*rest, **kwargs)
            for name in found:
                _plain_name(name)
            base.__init__(self, found)

        def __setitem__(self, name: str, value: Any) -> None:
            _plain_name(name)
            base.__setitem__(self, name, limits.checked(value))

    return Plain


def _plain_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise TooMuch(f"a namespace cannot keep `{name}`")


class _Raised(Exception):
    """What a template says with `raise_exception`."""


def _raise_exception(message: Any = "") -> None:
    raise _Raised(str(message))


def _strftime_now(form: str) -> str:
    now = meter()
    now.asked_now = True
    return (now.now or datetime.now()).strftime(str(form)[:200])


# -- rendering -------------------------------------------------------------------------------------------------------
@functools.lru_cache(maxsize=32)
def compiled(source: str) -> Any:
    """A template, compiled. Raises TemplateRefusal where it is none, naming the line."""
    if len(source) > SOURCE:
        raise TemplateRefusal(f"the chat template has {len(source):,} characters, and {SOURCE:,} are read at most")
    found = environment()
    import jinja2

    try:
        # The time that Jinja and Python take to compile grows with what there is, and no clock can stop them.
        tree = found.parse(source)
        if (count := sum(1 for _ in tree.find_all(jinja2.nodes.Node))) > NODES:
            raise TemplateRefusal(f"the chat template has {count:,} parts, and {NODES:,} are read at most")
        return found.from_string(tree)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateRefusal(
            f"the chat template cannot be read, line {error.lineno}: {error.message}", "look at that line of it"
        ) from None
    except (RecursionError, MemoryError, jinja2.TemplateError, SyntaxError, ValueError) as error:
        raise TemplateRefusal(f"the chat template cannot be read: {error}") from None


def rendered(source: str, variables: Mapping[str, Any], now: datetime | None = None) -> tuple[str, bool]:
    """(what a template makes of variables, whether it asked for today's date). Raises TemplateRefusal."""
    template = compiled(source)
    import jinja2

    before, spent = getattr(local, "meter", None), Meter(now)
    local.meter = spent
    try:
        return template.render(variables), spent.asked_now
    except _Raised as error:
        raise TemplateRefusal(
            f"the chat template refuses this dialogue{_line(error)}: {error}", "bring the dialogue into its form"
        ) from None
    except TooMuch as error:
        raise TemplateRefusal(
            f"the chat template was stopped{_line(error)}: {error}", "take a template that somebody vouches for"
        ) from None
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        said = str(error) or type(error).__name__
        raise TemplateRefusal(f"the chat template fails{_line(error)}: {said}", "look at that line of it") from None
    except (RecursionError, MemoryError) as error:
        raise TemplateRefusal(f"the chat template was stopped: {type(error).__name__}") from None
    finally:
        local.meter = before


def _line(error: BaseException) -> str:
    """Where in the template it happened, as a phrase."""
    place: TracebackType | None = error.__traceback__
    found: int | None = None
    while place is not None:
        if place.tb_frame.f_code.co_filename == NAME:
            found = place.tb_lineno
        place = place.tb_next
    return "" if found is None else f" in line {found}"
