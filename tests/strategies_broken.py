"""Specs broken on purpose: one of `strategies.specs()` with one named mistake, or with a few slips of the keyboard."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies import specs, yaml_text
from strategies_answers import COMPILED, MISTAKEN
from strategies_values import Data


class Broken(NamedTuple):
    """A spec with one mistake: its text, what was done to it, the path that the problem names, and its line."""

    text: str
    mutation: str
    path: tuple[str | int, ...]
    line: int


MARK = "MARK-HERE"
"""Stands, as a comment, on the line where the mistake is, and is taken out before the text is used."""

Path = tuple[str | int, ...]
PHASE, SOURCE = "<phase>", "<source>"
"""In a path: one of the spec's phases, its first source."""

WRONG: dict[str, list[tuple[Path, Any]]] = {
    "unknown_key": [
        ((*where, "zzz_qqq"), 3)
        for where in (
            (),
            ("model",),
            ("phases", PHASE),
            ("model", "attention"),
            ("decoding",),
            ("data", "sources", SOURCE),
        )
    ],
    "wrong_type": [
        (("model", "layers"), 1.5),
        (("model", "heads", "lm", "tied"), "yes"),
        (("model", "position"), "rope"),
        (("name",), 12),
        (("model", "layers"), None),
        (("phases", PHASE, "optimizer"), ["adamw"]),
        (("decoding", "temperature"), "hot"),
        (("decoding", "stop"), "end"),
        (("prompts",), "Once"),
        (("prompts",), [3]),
        (("phases", PHASE, "document_mask"), 1),
        (("model", "d_model"), {"a": 1}),
    ],
    "wrong_unit": [
        *((("phases", PHASE, "budget"), v) for v in ("300k", "3 epochs", 400, "2 hours", "0 steps", "1.5 steps")),
        (("phases", PHASE, "checkpoint_every"), "3 epochs of a"),
        (("phases", PHASE, "mixture", SOURCE), 100),
        (("phases", PHASE, "schedule", "warmup"), "5 tokens"),
        (("data", "sources", SOURCE, "validation"), "tail 1"),
    ],
    "unknown_kind": [
        ((*where, "kind"), kind)
        for kind in ("swigglu", "zzz", "ropee", "sftt")
        for where in (
            ("model", "mlp"),
            ("model", "position"),
            ("tokenizer",),
            ("phases", PHASE),
            ("data", "sources", SOURCE),
        )
    ],
    "mixture_total": [(("phases", PHASE, "mixture"), {SOURCE: share}) for share in ("90%", "0%", "101%")],
    "unknown_source": [(("phases", PHASE, "mixture", "wikki"), "100%")],
    "from_unknown": [(("phases", PHASE, "from"), "pretrian")],
    "from_circular": [(("phases", PHASE, "from"), PHASE)],
    "template_unknown": [(("data", "sources", SOURCE, "template"), "sumarise")],
    "teacher_unknown": [(("phases", PHASE, "objective", "teacher"), "pretrian")],
    "teacher_circular": [(("phases", PHASE, "objective", "teacher"), PHASE)],
    "negative_number": [
        (("model", "layers"), -1),
        (("model", "d_model"), 0),
        (("seed",), -3),
        (("model", "dropout"), -0.5),
        (("model", "dropout", "attention"), 1.5),
        (("phases", PHASE, "micro_batch_size"), -2),
        (("phases", PHASE, "early_stopping", "patience"), 0),
        (("phases", PHASE, "keep", "last"), 0),
        (("phases", PHASE, "on_spike", "above"), -6),
        (("phases", PHASE, "adapter", "r"), 0),
        (("phases", PHASE, "sequence_length", "start"), 0),
        (("phases", PHASE, "objective", "temperature"), -0.05),
        (("phases", PHASE, "objective", "huber"), 0),
        (("phases", PHASE, "std"), -1.0),
    ],
    "quoted_number": [
        (("model", "layers"), "2"),
        (("model", "dropout"), "1e-1"),
        (("seed",), "0x1f"),
        (("phases", PHASE, "max_grad_norm"), "1.0"),
    ],
    "labels_that_do_not_fit": [
        (("phases", PHASE, "heads", "classes", "labels"), ["yes", "yes"]),
        (("phases", PHASE, "heads", "classes", "classes"), 3),
        (("phases", PHASE, "heads", "classes"), {"kind": "classes"}),
    ],
    "tags_of_no_field": [
        (("data", "sources", SOURCE, "words"), "q"),
        (("data", "sources", SOURCE, "tags"), "{q} {a}"),
    ],
    "small_vocabulary": [(("tokenizer", "vocab"), 5)],
    "another_kinds_key": [(("model", "attention", "kv_heads"), 1), (("phases", PHASE, "optimizer", "momentum"), 0.5)],
}
"""Mistakes that are one wrong value: name -> (path, value)."""
BEFORE: dict[Path, Any] = {
    ("phases", PHASE, "schedule", "warmup"): {"kind": "cosine"},
    ("phases", PHASE, "objective", "teacher"): {"kind": "distillation"},
    ("tokenizer", "vocab"): {"kind": "bpe"},
    ("data", "sources", SOURCE, "template"): {"kind": "inline", "records": [{"q": "a", "a": "b"}]},
    **{
        ("data", "sources", SOURCE, key): {"kind": "inline", "records": [{"q": "a", "a": "b"}]}
        for key in ("words", "tags")
    },
    ("model", "attention", "kv_heads"): {"kind": "multi_head"},
    ("model", "dropout", "attention"): {},
    ("phases", PHASE, "optimizer", "momentum"): {"kind": "adamw"},
    ("phases", PHASE, "mixture", "wikki"): {},
    ("phases", PHASE, "adapter", "r"): {"kind": "lora"},
    ("phases", PHASE, "heads", "classes"): {},
    ("phases", PHASE, "heads", "classes", "labels"): {"kind": "classes"},
    ("phases", PHASE, "heads", "classes", "classes"): {"kind": "classes", "labels": ["yes", "no"]},
    ("phases", PHASE, "sequence_length", "start"): {"until": "30%"},
}
"""What the map around such a value is first set to, so that nothing else is wrong in it."""
OF_KIND: dict[Path, str] = {
    ("phases", PHASE, "sequence_length", "start"): "pretrain",
    ("phases", PHASE, "objective", "temperature"): "contrastive",
    ("phases", PHASE, "objective", "huber"): "regress",
    ("phases", PHASE, "std"): "regress",
}
"""Of keys that phases of one kind alone have: that kind, which their phase becomes."""
MISSPELT: list[tuple[Path, str]] = [
    (("model", "d_model"), "d_modle"),
    (("model", "layers"), "layer"),
    (("seed",), "sede"),
    (("tokenizer",), "tokeniser"),
    (("decoding", "temperature"), "temprature"),
    (("model", "attention", "heads"), "haeds"),
    (("phases", PHASE, "budget"), "bugdet"),
]
MISSING: list[Path] = [
    ("model", "context"),
    ("model", "d_model"),
    ("phases", PHASE, "budget"),
    ("phases", PHASE, "mixture"),
    ("data", "sources", SOURCE, "kind"),
    ("name",),
    ("data",),
]
TEXTUAL: dict[str, list[tuple[Path, Callable[[str], str]]]] = {
    "duplicate_key": [
        (path, lambda line: f"{line}\n{line}")
        for path in (("name",), ("model", "context"), ("model", "attention", "heads"), ("phases", PHASE, "budget"))
    ],
    "tab_indentation": [(("model", key), lambda line: "\t" + line.strip()) for key in ("d_model", "layers")],
    "unclosed_bracket": [
        (path, lambda line, end=end: line.split(":")[0] + end)
        for end in (": [1, 2", ": {a: 1", ': "te', ": 'it")
        for path in (("name",), ("model", "layers"), ("phases", PHASE, "micro_batch_size"))
    ],
    "wrong_indentation": [(("model", "layers"), lambda line: " " + line)],
    "python_tag": [(("name",), lambda line: "name: !!python/name:os.system x")],
    "odd_key": [(("name",), lambda line, key=key: f"{key}: 1 #{MARK}\n{line}") for key in ("12", "true", "~", "[a]")],
}
"""Mistakes in the writing: name -> (path of a line, the line rewritten)."""
READ = (*WRONG, "misspelt_key", "missing_key", *TEXTUAL, *MISTAKEN)
"""Mistakes that the reader of a spec finds."""
MUTATIONS = (*READ, *COMPILED)


def holder(data: Data, path: Path) -> Any:
    """The map that the last step of a path leads into, made where there is none."""
    for step in path[:-1]:
        data = data.setdefault(step, {})
    return data


def marked(data: Data, path: Path) -> list[str]:
    """Lines of YAML with a mark at the end of the one with a path's key."""
    lines = yaml_text(data).split("\n")
    at = 0
    for depth, step in enumerate(path):
        key = yaml_text({str(step): 0}).rpartition(":")[0]
        at = next(i for i in range(at, len(lines)) if lines[i].startswith(f"{'  ' * depth}{key}:"))
        at += depth < len(path) - 1
    lines[at] += f" #{MARK}"
    return lines


def applied(draw: DrawFn, data: Data, name: str) -> Broken:
    """`data` with one mistake."""
    data = copy.deepcopy(data)
    names = {PHASE: draw(st.sampled_from(list(data["phases"]))), SOURCE: next(iter(data["data"]["sources"]))}

    def real(path: Path) -> Path:
        return tuple(names.get(str(step), step) for step in path)

    if name in WRONG:
        path, value = draw(st.sampled_from(WRONG[name]))
        if path in OF_KIND:
            phase = data["phases"][names[PHASE]]
            data["phases"][names[PHASE]] = {"kind": OF_KIND[path], **{k: phase[k] for k in ("mixture", "budget")}}
        if path in BEFORE:
            holder(data, real(path[:-1]))[real(path)[-2]] = dict(BEFORE[path])
        if isinstance(value, dict):
            value = {names.get(k, k): v for k, v in value.items()}
        path, value = real(path), names.get(value, value) if isinstance(value, str) else value
        holder(data, path)[path[-1]] = value
        lines = marked(data, path)
    elif name in MISTAKEN or name in COMPILED:
        value, key = draw(st.sampled_from({**MISTAKEN, **COMPILED}[name]))
        where = real(("phases", PHASE) if "mixture" in value else ("data", "sources", SOURCE))
        if "mixture" in value:
            value = {**value, "mixture": {names[SOURCE]: "100%"}}
        holder(data, where)[where[-1]] = value
        path = (*where, *filter(None, key.split(".")))
        lines = marked(data, path)
    elif name == "misspelt_key":
        right, wrong = draw(st.sampled_from(MISSPELT))
        path = (*real(right)[:-1], wrong)
        holder(data, path)[wrong] = holder(data, path).pop(right[-1], 1)
        lines = marked(data, path)
    elif name == "missing_key":
        path = real(draw(st.sampled_from(MISSING)))
        del holder(data, path)[path[-1]]
        lines = marked(data, path[:-1]) if path[:-1] else [f"# #{MARK}", *yaml_text(data).split("\n")]
    else:
        path, rewritten = draw(st.sampled_from(TEXTUAL[name]))
        path = real(path)
        lines = marked(data, path)
        at = next(i for i, line in enumerate(lines) if MARK in line)
        new = rewritten(lines[at].removesuffix(f" #{MARK}"))
        lines[at : at + 1] = (new if MARK in new else f"{new} #{MARK}").split("\n")
    line = next(i for i, text in enumerate(lines, 1) if MARK in text)
    return Broken("\n".join(text.replace(f" #{MARK}", "") for text in lines), name, path, line)


@st.composite
def broken_specs(draw: DrawFn, names: tuple[str, ...] = ()) -> Broken:
    """A valid spec plus one named mistake (of `names`, or of all)."""
    return applied(draw, draw(specs()), draw(st.sampled_from(names or MUTATIONS)))


@st.composite
def slips(draw: DrawFn) -> str:
    """The text of a valid spec after one to three slips of the keyboard, wherever they fall."""
    text = yaml_text(draw(specs()))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.sampled_from([0, 0, 1, 1, 2, 9, 40])))
        put_in = draw(
            st.sampled_from(
                [
                    "",
                    "",
                    " ",
                    "  ",
                    "\t",
                    "\n",
                    ":",
                    ": ",
                    "- ",
                    "#",
                    "{",
                    "}",
                    "[",
                    "]",
                    ",",
                    "'",
                    '"',
                    "&a ",
                    "*a",
                    "!",
                    "|",
                    ">",
                    "%",
                    "@",
                    "?",
                    "-1",
                    "null",
                    "1e9",
                    "\u2028",
                    "\x00",
                    "é",
                    "---\n",
                ]
            )
        )
        text = text[:at] + put_in + text[end:]
    return text
