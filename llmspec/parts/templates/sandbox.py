"""Jinja templates of others, run without trust: no files, no attributes of Python, bounded loops, sizes and time.

What a template may use is what chat templates of Hugging Face models use (huggingface/transformers,
chat_template_utils.py): loop controls, `tojson`, `raise_exception`, `strftime_now`, blocks of `generation`.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from llmspec.core.problems import DataError

SOURCE = 1 << 20
"""Characters of a template, at most."""
SIZE = 1 << 22
"""Characters and items that a template may make, and that one of its values may have, at most."""
STEPS = 300_000
"""Rounds of loops, calls and operations, at most."""
SECONDS = 5.0
"""Time of one rendering, at most."""
BITS = 4096
"""Bits of an integer, at most."""
NAME = "<template>"
"""What Jinja calls a template without a file, in tracebacks."""
METHODS: Mapping[type, str] = {
    str: "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric "
    "isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition "
    "rsplit rstrip split splitlines startswith strip swapcase title upper",
    dict: "get items keys values",
    list: "count index",
    tuple: "count index",
}
"""Methods of values that a template may call."""
FILTERS = (
    "abs capitalize count d default dictsort e escape first float groupby indent int items join last length list lower "
    "map max min reject rejectattr replace reverse round safe select selectattr sort string sum title trim truncate "
    "unique upper wordcount"
)
"""Jinja's own filters that a template may use."""


class TemplateRefusal(DataError):
    """A template that cannot be used, or will not render what it is given."""


class _TooMuch(Exception):
    """A template that goes beyond a limit."""


class _Meter:
    """What one rendering has spent."""

    def __init__(self, now: datetime | None) -> None:
        self.steps = self.made = 0
        self.until = time.monotonic() + SECONDS
        self.now, self.asked_now = now, False

    def step(self, made: int = 0) -> str:
        """A round, a call or an operation that makes so many characters. Raises _TooMuch."""
        self.steps += 1
        self.made += made
        if self.steps > STEPS:
            raise _TooMuch(f"it takes more than {STEPS:,} steps")
        if self.made > SIZE:
            raise _TooMuch(f"it makes more than {SIZE:,} characters")
        if time.monotonic() > self.until:
            raise _TooMuch(f"it takes longer than {SECONDS:g} seconds")
        return ""


_local = threading.local()


def _step(made: int = 0) -> str:
    return meter().step(made)


def meter() -> _Meter:
    """That of the rendering that is going on."""
    found: _Meter = _local.meter
    return found


def weigh(value: Any) -> int:
    """Characters and items that a value unfolds to. Raises _TooMuch beyond SIZE."""
    waiting, found = [value], 0
    while waiting:
        one = waiting.pop()
        found += 1
        if isinstance(one, str):
            found += len(one)
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        elif isinstance(one, int) and one.bit_length() > BITS:
            raise _TooMuch("it makes an integer beyond reason")
        if found + len(waiting) > SIZE:
            raise _TooMuch(f"it makes a value of more than {SIZE:,} characters")
    return found


def checked(value: Any) -> Any:
    """The value itself, which is no larger than it may be."""
    meter().step()
    if not isinstance(value, bool | float | None):
        weigh(value)
    return value


# -- what grows ------------------------------------------------------------------------------------------------------
def _within(size: int) -> None:
    meter().step()
    if size > SIZE:
        raise _TooMuch(f"it makes a value of more than {SIZE:,} characters")


def _operation(operator: str, left: Any, right: Any) -> None:
    """Looks at the operands before what could be large is made. Raises _TooMuch."""
    meter().step()
    whole = [isinstance(x, int) for x in (left, right)]
    if operator == "%" and isinstance(left, str):
        raise _TooMuch("`%` of a text is not offered here")
    if operator == "**":
        if not all(isinstance(x, int | float) for x in (left, right)):
            return
        if all(whole) and abs(right) * max(1, left.bit_length()) > BITS:
            raise _TooMuch("it makes an integer beyond reason")
    elif operator == "*":
        if all(whole):
            if left.bit_length() + right.bit_length() > BITS:
                raise _TooMuch("it makes an integer beyond reason")
        elif any(whole):
            times, sized = (left, right) if whole[0] else (right, left)
            _within(weigh(sized) * max(0, times))
    elif operator == "+":
        _within(weigh(left) + weigh(right))


def _replaced(text: Any, old: Any, new: Any) -> None:
    count = str(text).count(str(old)) if str(old) else len(str(text)) + 1
    _within(len(str(text)) + count * len(str(new)))


def _joined(between: Any, values: Any) -> list[Any]:
    found = list(values)
    _within(weigh(found) + len(str(between)) * len(found))
    return found


def _method(owner: Any, name: str, given: tuple[Any, ...]) -> None:
    """Whether a method of a value may be called. Raises _TooMuch."""
    allowed = next((names for kind, names in METHODS.items() if isinstance(owner, kind)), None)
    if allowed is None:
        if isinstance(owner, int | float | bytes):
            raise _TooMuch(f"`.{name}()` of a number is not offered here")
        return
    if name not in allowed.split():
        raise _TooMuch(f"`.{name}()` is not offered here")
    if name == "replace" and len(given) >= 2:
        _replaced(owner, given[0], given[1])
    elif name == "join" and given and isinstance(given[0], list | tuple | Mapping | str):
        _joined(owner, given[0])


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
        intercepted_binops = frozenset({"+", "*", "**", "%"})

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            return Bounds().visit(super()._parse(source, name, filename))

        def wrap_str_format(self, value: Any) -> Any:
            name = getattr(value, "__name__", "")
            if name in ("format", "format_map") and isinstance(getattr(value, "__self__", None), str):
                raise _TooMuch(f"`.{name}()` is not offered here")
            return None

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(__self, __context: Any, __function: Any, *args: Any, **kwargs: Any) -> Any:
            owner = getattr(__function, "__self__", None)
            if owner is not None and not isinstance(owner, type):
                _method(owner, getattr(__function, "__name__", ""), args)
            return checked(super().call(__context, __function, *args, **kwargs))

    made = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, Generation],
        finalize=_finalize,
        cache_size=0,
    )
    made.filters = {name: _bounded(name, made.filters[name]) for name in FILTERS.split()} | {"tojson": _tojson}
    made.globals = {
        "range": made.globals["range"],
        "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        "namespace": _namespace(jinja2.utils.Namespace),
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        Bounds.STEP: _step,
        Bounds.CONCAT: _concat,
        Bounds.MADE: checked,
    }
    return made


def _finalize(value: Any) -> Any:
    """Counts what is written, also within blocks that are kept."""
    meter().step(weigh(value))
    return value


def _concat(*values: Any) -> str:
    """`a ~ b`."""
    _within(weigh(values))
    return "".join(str(value) for value in values)


def _bounded(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result is no larger than it may be."""

    @functools.wraps(run)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        meter().step()
        own = args[1:] if hasattr(run, "jinja_pass_arg") else args
        if name == "replace" and len(own) >= 3:
            _replaced(*own[:3])
        elif name == "join" and own:
            values = _joined(own[1] if len(own) > 1 else kwargs.get("d", ""), own[0])
            args = (*args[: len(args) - len(own)], values, *own[1:])
        elif name == "indent":
            width, lines = own[1] if len(own) > 1 else kwargs.get("width", 4), str(own[0]).count("\n") + 1
            _within(len(str(own[0])) + lines * (len(width) if isinstance(width, str) else int(width)))
        found = run(*args, **kwargs)
        return _counted(found) if isinstance(found, Iterator) else checked(found)

    return bounded


def _counted(values: Iterator[Any]) -> Iterator[Any]:
    for value in values:
        meter().step()
        yield value


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    size = weigh(value)
    if indent is not None:
        _within(size * (1 + (len(indent) if isinstance(indent, str) else int(indent))))
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
            base.__setitem__(self, name, checked(value))

    return Plain


def _plain_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise _TooMuch(f"a namespace cannot keep `{name}`")


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
        return found.from_string(source)
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

    before, spent = getattr(_local, "meter", None), _Meter(now)
    _local.meter = spent
    try:
        return template.render(variables), spent.asked_now
    except _Raised as error:
        raise TemplateRefusal(
            f"the chat template refuses this dialogue{_line(error)}: {error}", "bring the dialogue into its form"
        ) from None
    except _TooMuch as error:
        raise TemplateRefusal(
            f"the chat template was stopped{_line(error)}: {error}", "take a template that somebody vouches for"
        ) from None
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        said = str(error) or type(error).__name__
        raise TemplateRefusal(f"the chat template fails{_line(error)}: {said}", "look at that line of it") from None
    except (RecursionError, MemoryError) as error:
        raise TemplateRefusal(f"the chat template was stopped: {type(error).__name__}") from None
    finally:
        _local.meter = before


def _line(error: BaseException) -> str:
    """Where in the template it happened, as a phrase."""
    place: TracebackType | None = error.__traceback__
    found: int | None = None
    while place is not None:
        if place.tb_frame.f_code.co_filename == NAME:
            found = place.tb_lineno
        place = place.tb_next
    return "" if found is None else f" in line {found}"
