"""What Jinja templates of others cannot do: make more than a limit of any kind of value, by any way, or take longer."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from chat_templates import SHAPES
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from llmspec.parts.templates import limits, sandbox
from llmspec.parts.templates.jinja_filters import LOOKS_AT
from llmspec.parts.templates.limits import SIZE, Meter, weigh
from llmspec.parts.templates.sandbox import TemplateRefusal, rendered

PLAIN = 64
"""Characters of text for each that a value weighs, at most: marks between values, and characters that are escaped."""


# -- what a value weighs -----------------------------------------------------------------------------------------------
def _macro(name: str) -> Any:
    found = sandbox.environment().from_string(f"{{% macro {name}() %}}{{% endmacro %}}")
    return getattr(found.make_module(), name)


def _namespace(values: list[Any]) -> Any:
    return sandbox.environment().globals["namespace"]({f"a{i}": value for i, value in enumerate(values)})


def holding(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of every kind that holds others."""
    several = st.lists(inner, max_size=3)
    named = st.dictionaries(st.text(max_size=40), inner, max_size=3)
    return st.one_of(
        several,
        several.map(tuple),
        several.map(_namespace),
        named,
        named.map(lambda d: d.keys()),
        named.map(lambda d: d.values()),
        named.map(lambda d: d.items()),
        named.map(lambda d: d.keys().mapping),
        st.text("<&x", max_size=400).map(lambda text: Markup(text).join),
    )


def leaves() -> st.SearchStrategy[Any]:
    numbers = st.one_of(st.integers(-(2**limits.BITS) + 1, 2**limits.BITS - 1), st.floats(), st.booleans(), st.none())
    texts = st.integers(0, 3000).map(lambda n: "x" * n)
    macros = st.integers(1, 400).map(lambda n: _macro("m" * n))
    return st.one_of(numbers, texts, st.text(max_size=20), macros, st.just("x".upper), st.just(range(9)))


@given(st.deferred(lambda: st.recursive(leaves(), holding, max_leaves=8)))
@settings(max_examples=200, deadline=None)
def test_a_value_weighs_what_its_text_has(value: Any) -> None:
    limits.local.meter = Meter(None)
    try:
        assert len(str(value)) <= PLAIN * weigh(value)
        many = [value] * 40
        assert weigh(many) == 1 + 40 * weigh(value), "as often as it is written"
    finally:
        limits.local.meter = None


def small(template: str, variables: dict[str, Any]) -> None:
    """Renders without ever holding much."""
    sandbox.compiled(template)
    tracemalloc.start()
    try:
        rendered(template, variables)
    finally:
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert held < 4 * SIZE


HELD: dict[str, Callable[[str], Any]] = {
    "list": lambda x: [x, x],
    "tuple": lambda x: (x, x),
    "dict": lambda x: {1: x},
    "keys": lambda x: {x: 1}.keys(),
    "values": lambda x: {1: x}.values(),
    "items": lambda x: {1: x}.items(),
    "mapping": lambda x: {1: x}.keys().mapping,
    "namespace": lambda x: _namespace([x]),
    "nested namespace": lambda x: _namespace([_namespace([[x]])]),
    "method": lambda x: Markup(x).join,
    "macro": lambda x: _macro(x),
    "integers": lambda x: [9**1200] * 100,
}
WRITTEN = {
    "written": "{{ v }}",
    "concatenated": "{% set t = v ~ '' %}",
    "joined": "{% set t = v | join(',') %}",
    "joined by a method": "{% set t = ','.join([v | string]) %}",
    "replaced": "{% set t = v | replace('a', 'b') %}",
    "replaced by": "{% set t = 'a' | replace('a', v) %}",
    "replaced by name": "{% set t = 'a' | replace(old='a', new=v) %}",
    "lower?": "{% if v is lower %}{% endif %}",
    "upper?": "{% if v is upper %}{% endif %}",
    **{name: f"{{% set t = v | {name} %}}" for name in ("capitalize", "e", "escape", "lower", "safe", "string")},
    **{name: f"{{% set t = v | {name} %}}" for name in ("title", "trim", "upper", "wordcount", "indent")},
}


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("way", WRITTEN)
def test_no_way_makes_text_of_a_large_value_of_any_kind(kind: str, way: str) -> None:
    """Not even for a moment."""
    value = [HELD[kind]("s" * 30_000)] * 900
    with pytest.raises(TemplateRefusal, match="characters"):
        small(WRITTEN[way], {"v": value})


def test_namespaces_of_namespaces_weigh_what_they_unfold_to() -> None:
    levels = "".join(f"{{% set n{i} = namespace(a=n{i - 1}, b=n{i - 1}) %}}" for i in range(1, 41))
    with pytest.raises(TemplateRefusal, match="characters"):
        rendered("{% set n0 = namespace(a='x' * 1000) %}" + levels, {})


def test_a_namespace_within_itself_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.5)
    began = time.process_time()
    with pytest.raises(TemplateRefusal, match=r"(characters|seconds)"):
        rendered("{% set n = namespace() %}{% set n.a = n %}{{ n }}", {})
    assert time.process_time() - began < 2


# -- filters and methods -----------------------------------------------------------------------------------------------
BEYOND = {
    "replace": ("'a' * 1000000", {"old": "'a'", "new": "'b' * 90"}, "characters"),
    "join": ("range(99999)", {"d": "'b' * 90"}, "characters"),
    "indent": ("'a\\n' * 90000", {"width": "90"}, "characters"),
    "round": ("1.5", {"precision": "90000", "method": "'ceil'"}, "whole number of digits"),
    "sum": ("[[0]] * 9000", {"attribute": "none", "start": "[]"}, "begins with a number"),
    "trim": ("'a' * 1000000", {"chars": "'b' * 900 ~ 'a'"}, "compares"),
}
"""Filter -> (a value, arguments by name in their order, what is said)."""


@pytest.mark.parametrize("name", LOOKS_AT)
def test_arguments_are_looked_at_however_they_are_given(name: str) -> None:
    value, given_, said = BEYOND[name]
    own = list(given_.items())
    for first in range(len(own) + 1):  # so many by their place, the others by name
        placed = [value for _, value in own[:first]]
        named = [f"{key}={value}" for key, value in own[first:]]
        with pytest.raises(TemplateRefusal, match=said):
            rendered(f"{{{{ ({value}) | {name}({', '.join([*placed, *named])}) }}}}", {})
        with pytest.raises(TemplateRefusal, match=said):
            rendered(f"{{{{ [{value}] | map({', '.join([repr(name), *placed, *named])}) | list }}}}", {})


@pytest.mark.parametrize("end", ["\\n", "\\r", "\\x0b", "\\x0c", "\\x1c", "\\x85", "\\u2028"])
def test_whatever_ends_a_line_is_counted_where_lines_are_moved(end: str) -> None:
    with pytest.raises(TemplateRefusal, match="characters"):
        small(f"{{% set t = ('a{end}' * 90000) | indent(900) %}}", {})


@pytest.mark.parametrize("value", ["'x'", "[0]", "(0,)", "{}", "none", "namespace()"])
def test_only_numbers_are_rounded_and_only_numbers_begin_a_sum(value: str) -> None:
    for template in (f"{{{{ {value} | round(9, 'ceil') }}}}", f"{{{{ [] | sum(start={value}) }}}}"):
        with pytest.raises(TemplateRefusal, match="number"):
            rendered(template, {})


@pytest.mark.parametrize("precision", [10**9, -(10**9), 301, -301])
@pytest.mark.parametrize("value", [5, 1.5])
@pytest.mark.parametrize("method", ["common", "ceil", "floor"])
def test_numbers_are_rounded_to_digits_that_there_are(precision: int, value: float, method: str) -> None:
    with pytest.raises(TemplateRefusal, match="whole number of digits"):
        rendered(f"{{{{ {value} | round({precision}, '{method}') }}}}", {})


@pytest.mark.parametrize(
    "values",
    [
        "d.keys()",
        "d.values()",
        "d.keys().mapping",
        "d",
        "['a', 'b', 'c']",
        "('a', 'b', 'c')",
        "'abc'",
        "range(3) | map('e')",
    ],
)
def test_what_stands_between_is_counted_for_whatever_is_joined(values: str) -> None:
    known = "{% set d = {'a': 'x', 'b': 'y', 'c': 'z'} %}{% set between = 'b' * 2000000 %}"
    for joined in (f"between.join({values})", f"({values}) | join(between)", f"({values}) | join(d=between)"):
        with pytest.raises(TemplateRefusal, match="a value of more than"):
            rendered(f"{known}{{% set t = {joined} %}}", {})
        assert "b" in rendered(f"{known}{{% set between = '-b-' %}}{{{{ {joined} }}}}", {})[0]


def test_what_an_attribute_picks_is_counted() -> None:
    """Also of what says nothing of it in its own text, such as a loop of the item before."""
    for given_ in ("'', 'previtem'", "'', attribute='previtem'", "attribute='previtem'"):
        joined = f"{{% if not loop.first %}}{{% set t = ([loop] * 900) | join({given_}) %}}{{% endif %}}"
        with pytest.raises(TemplateRefusal, match="a value of more than"):
            small(f"{{% for x in ['a' * 90000, 1] %}}{joined}{{% endfor %}}", {})
    assert rendered("{{ [{'a': 1}, {'a': [2]}] | join('-', attribute='a') }}", {})[0] == "1-[2]"


@pytest.mark.parametrize(
    "given_", ["indent=9", "indent=' ' * 9", "separators=('x' * 900, ':')", "separators=(',', ':' * 900)"]
)
def test_json_is_counted_with_what_stands_around_values(given_: str) -> None:
    deep = "{% set n = namespace(a={}) %}{% for i in range(300) %}{% set n.a = {1: n.a, 2: {3: 4}} %}{% endfor %}"
    with pytest.raises(TemplateRefusal, match="characters"):
        rendered(f"{deep}{{% set t = [n.a, n.a, n.a, n.a, n.a, n.a, n.a, n.a] | tojson({given_}) %}}", {})


def test_values_that_come_one_by_one_are_counted_together() -> None:
    for taking in ("list", "join", "sort", "unique | list", "map('upper') | list"):
        template = f"{{% set t = range(9000) | map('replace', '', 'x' * 9000) | {taking} %}}"
        with pytest.raises(TemplateRefusal, match="characters"):
            small(template, {})


def test_what_is_kept_is_counted_together() -> None:
    sets = "".join(f"{{% set a{i} = {{}} %}}" for i in range(400))
    for made in ("'x' * 2000000", "x[1:]", "x ~ 'b'", "x.upper()", "x | upper", "x | replace('y', 'z')"):
        with pytest.raises(TemplateRefusal, match="values of more than"):
            rendered("{% set x = 'x' * 2000000 %}" + sets.replace("{}", made), {})


def test_what_a_filter_makes_of_a_block_is_written() -> None:
    with pytest.raises(TemplateRefusal, match="more than"):
        rendered("{% for i in range(99) %}{% filter replace('a', 'x' * 100000) %}a{% endfilter %}{% endfor %}", {})


# -- time --------------------------------------------------------------------------------------------------------------
LONG = {
    "in": "{% if 1 in a %}{% endif %}",
    "not in": "{% if 1 not in a %}{% endif %}",
    "many comparisons": "{% if 1 not in a not in a not in a %}{% endif %}",
    "in an expression": "{% set t = 1 in a %}",
    "between blocks": "{{ 'a' if 1 in a }}",
    "equal": "{% if a == b %}{% endif %}",
    "less": "{% if a < b %}{% endif %}",
    "test": "{% if 1 is in a %}{% endif %}",
    "test of equality": "{% if a is eq b %}{% endif %}",
    "select": "{% if a | select('eq', 1) | first %}{% endif %}",
    "slice": "{% set t = a[1:] %}",
    "slice backwards": "{% set t = a[::-1] %}",
    "key": "{% set t = d[k] %}",
    "difference": "{% set t = e.keys() - e.keys() %}",
    "rounds left out": "{% for i in a if i %}{% endfor %}",
}


@pytest.mark.parametrize("what", LONG)
def test_the_clock_is_read_before_what_goes_through_a_whole_value(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.02)
    values = {
        "a": [0] * 1_000_000,
        "b": [0] * 1_000_000,
        "k": (0,) * 1_000_000,
        "d": {},
        "e": dict.fromkeys(range(99999)),
    }
    template = LONG[what] * 300
    sandbox.compiled(template)
    began = time.process_time()
    with pytest.raises(TemplateRefusal, match=r"(takes longer|values of more)"):
        rendered(template, values)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("name", ["rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip"])
def test_methods_that_go_through_two_texts_are_bounded(name: str) -> None:
    began = time.process_time()
    with pytest.raises(TemplateRefusal, match="compares more"):
        rendered(f"{{{{ ('a' * 2000000).{name}('ab' ~ 'a' * 1000000) }}}}", {})
    assert time.process_time() - began < 2
    assert rendered("{{ 'a--b'.rsplit(sep='-', maxsplit=1)[-1] ~ ' c '.strip() }}", {})[0] == "bc"


# -- what stays as it is -----------------------------------------------------------------------------------------------
USUAL = (
    "{{ 'a\\nb' | indent(2) }}{{ 'a' | indent(width='- ', first=true) }}{{ [3, 1] | sort | join(', ') }}",
    "{{ [1, 2.5] | sum }}{{ [{'n': 1}] | sum(attribute='n', start=2) }}{{ 2.567 | round(2) }}{{ 5 | round(-1) }}",
    "{{ 'aXa' | replace('a', 'b', 1) }}{{ 'aXa' | replace(old='a', new='b') }}{{ '-x-' | trim('-') }}",
    "{{ ' x ' | trim }}{{ 'a' in 'ba' }}{{ 2 is in [1, 2] }}{{ '-'.join(['a', 'b']) }}",
    "{% set n = namespace(a=1) %}{% set n.b = [n.a, 2] %}{{ n.b }}{{ {'a': 1}.values() | list }}{{ {1: 2}.items() }}",
    "{% for i in [1, 2, 3] if i is odd %}{{ loop.index }}{{ i }}{% endfor %}{{ 1.5 * 6000000 }}{{ [1, 2, 3][1:] }}",
    "{% filter upper %}a{{ 1 }}{% endfilter %}{{ 1 < 2 < 3 }}",
    "{% macro m(x, y=2) %}{{ x }}{{ y }}{{ caller() if caller }}{% endmacro %}{% call m(1) %}c{% endcall %}{{ m(3) }}",
)


@pytest.mark.parametrize("template", [*USUAL, *(shape[0] for shape in SHAPES.values())])
def test_what_is_within_the_limits_is_what_jinja_makes_of_it(template: str) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    messages = [{"role": ("user", "assistant")[i % 2], "content": f" <think>a</think> <b> {i}\n"} for i in range(6)]
    given_ = {"messages": messages, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template).render(given_)
    assert rendered(template, given_)[0] == plain


@pytest.mark.parametrize(
    "part", ["{% for a in b %}{% endfor %}", "{{ a }}", "{% if a %}{% endif %}", "{% set a = 1 %}"]
)
def test_a_template_of_many_parts_is_refused_before_it_is_compiled(part: str) -> None:
    began = time.monotonic()
    with pytest.raises(TemplateRefusal, match="parts, and"):
        rendered(part * (sandbox.NODES + 1), {})
    assert time.monotonic() - began < 60  # compiled, the loops would take minutes
    assert rendered(part * 20, {"a": "", "b": []})[0] == ""
