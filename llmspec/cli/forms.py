"""Which options do something in which form of a verb: what would do nothing is refused. And what a prompt means."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from llmspec.api import holds_model, is_spec
from llmspec.core.problems import LlmspecError, Problem


@dataclass(frozen=True)
class Form:
    """One way to give a verb: as it is written, and the options (by parameter name) that do something in it."""

    line: str
    acts: frozenset[str]
    where: str = ""
    """What holds besides, where that cannot be seen from the line."""

    @property
    def verb(self) -> str:
        return self.line.split()[0]

    def __str__(self) -> str:
        return f"`llmspec {self.line}`" + (f" {self.where}" if self.where else "")


def _form(line: str, acts: str, where: str = "") -> Form:
    return Form(line, frozenset(acts.split()), where)


RUN = _form("run SPEC", "out set offline locked lock only from continue_from no_reuse json")
RUN_DRY = _form("run SPEC --dry-run", "out set offline only from continue_from no_reuse dry_run json")
RUN_CERTIFY = _form("run SPEC --certify", "out set offline certify json")
SAMPLE_CHAT = _form("sample", "prompt prompts batch system n seed plain phase quantize set json", "with a chat model")
SAMPLE_PLAIN = _form("sample --plain", "prompt prompts batch n seed plain phase quantize set json")
SAMPLE_TEXT = _form(
    "sample",
    "prompt prompts batch n seed plain phase quantize set json",
    "with a model that was not trained on dialogues",
)
SAMPLE_FILL = _form("sample", "prompt prompts top phase quantize json", "with a model that fills masked places")
SAMPLE_CLASSIFY = _form(
    "sample --classify", "prompt prompts classify top phase quantize json", "with a model that tells labels"
)
SAMPLE_NUMBER = _form("sample", "prompt prompts phase quantize json", "with a model that gives texts numbers")
CHAT = _form("chat [RUN]", "system seed phase quantize set json")
RANK = _form("rank [RUN]", "prompts out n repeats seed plain phase quantize set json")
RANK_BY = _form("rank [RUN] --by REWARD", "prompts out by n seed plain phase quantize set json")
RANK_GIVEN = _form("rank --answers KEY", "prompts out answers repeats seed json")
RANK_GIVEN_BY = _form("rank --answers KEY --by REWARD", "prompts out answers by seed json")
EMBED = _form("embed [RUN]", "text texts out pooling phase quantize json")
EXPLAIN_SPEC = _form("explain SPEC", "exact time set json")
EXPLAIN_PART = _form("explain SPEC --part PART", "part set json")
EXPLAIN_PAIR = _form("explain SPEC SPEC", "set json")
EXPLAIN_RUNS = _form("explain RUN RUN", "json")
EXPLAIN_RUN = _form("explain [RUN]", "json")
EXPLAIN_PLAN = _form("explain RUN --exact", "exact time json")
EXPLAIN_RUN_PART = _form("explain RUN --part PART", "part json")
EXPLAIN_PROMPT = _form("explain [RUN] --prompt TEXT", "prompt seed top set json")
EXPLAIN_TOKENS = _form("explain [RUN] --tokens", "tokens against phase prompt seed set json")
EXPLAIN_WINS = _form("explain [RUN] --by REWARD", "by against phase prompts seed set json")
CHECK = _form("check SPEC", "set exact data graph time device json")
NEW = _form("new FOLDER --text PATH", "text chat minutes json")
NEW_CHAT = _form("new FOLDER --chat PATH", "text chat minutes json")
NEW_EXAMPLE = _form("new FOLDER", "text chat json", "without --text or --chat")
SCHEMA = _form("schema", "out")
IMPORT = _form("import PATH --out DIR", "out json")
EXPORT = _form("export [RUN] --out DIR", "to out family shard_size phase json")
MERGE = _form("merge [RUN] --out DIR", "out type phase text json")
EXPORT_GGUF = _form("export [RUN] --to gguf --out DIR", "to out family type text phase json")
BENCH = _form("bench [SPEC]", "against only phase rounds steps prompt_tokens set json")
BENCH_DECODING = _form("bench --only decode", "against only rounds steps prompt_tokens set json")
BENCH_MODEL = _form("bench MODEL", "against only rounds steps prompt_tokens json")
BENCH_MACHINE = _form("bench --only machine", "only set json")
GC = _form("gc [RUNS]", "specs yes json")
GC_CACHES = _form("gc --caches", "caches older_than most yes json")

FORMS = (
    RUN,
    RUN_DRY,
    RUN_CERTIFY,
    SAMPLE_CHAT,
    SAMPLE_PLAIN,
    SAMPLE_TEXT,
    SAMPLE_FILL,
    SAMPLE_CLASSIFY,
    SAMPLE_NUMBER,
    CHAT,
    RANK,
    RANK_BY,
    RANK_GIVEN,
    RANK_GIVEN_BY,
    EMBED,
    EXPLAIN_SPEC,
    EXPLAIN_PART,
    EXPLAIN_PAIR,
    EXPLAIN_RUNS,
    EXPLAIN_RUN,
    EXPLAIN_PLAN,
    EXPLAIN_RUN_PART,
    EXPLAIN_PROMPT,
    EXPLAIN_TOKENS,
    EXPLAIN_WINS,
    CHECK,
    NEW,
    NEW_CHAT,
    NEW_EXAMPLE,
    SCHEMA,
    IMPORT,
    MERGE,
    EXPORT,
    EXPORT_GGUF,
    BENCH,
    BENCH_DECODING,
    BENCH_MODEL,
    BENCH_MACHINE,
    GC,
    GC_CACHES,
)

EXCLUSIVE = (
    ("run", "locked", "lock", "--lock names the lock that --locked would take from the run directory"),
    ("run", "only", "from", "--only names phases one by one, --from one with all that build on it"),
    ("sample", "prompt", "prompts", "each line of the file that --prompts names is a prompt"),
)
"""Options of a verb of which one would silence the other, and why."""


def form(verb: str, values: Mapping[str, Any]) -> Form:
    """The form in which a verb was given, by the values of its parameters."""
    if verb == "explain":
        return _explain(values)
    if verb == "rank":
        by, given = values.get("by") is not None, values.get("answers") is not None
        return (RANK_GIVEN_BY if by else RANK_GIVEN) if given else RANK_BY if by else RANK
    if verb == "gc":
        return GC_CACHES if values.get("caches") else GC
    if verb == "run":
        return RUN_DRY if values.get("dry_run") else RUN_CERTIFY if values.get("certify") else RUN
    if verb == "sample" and values.get("classify"):
        return SAMPLE_CLASSIFY
    if verb == "sample" and values.get("top") is not None:
        return SAMPLE_FILL
    if verb == "sample":  # whether the model is one for dialogues is known once it is open: `refuse` is asked again
        return SAMPLE_PLAIN if values.get("plain") else SAMPLE_CHAT
    if verb == "export" and values.get("to") == "gguf":
        return EXPORT_GGUF
    if verb == "new":
        return NEW if values.get("text") else NEW_CHAT if values.get("chat") else NEW_EXAMPLE
    if verb == "bench" and values.get("spec") is not None and holds_model(values["spec"]):
        return BENCH_MODEL
    if verb == "bench" and (only := set(values.get("only") or ())):
        return BENCH_MACHINE if only == {"machine"} else BENCH_DECODING if "train" not in only else BENCH
    return next(found for found in FORMS if found.verb == verb)


def _explain(values: Mapping[str, Any]) -> Form:
    what, other = values.get("what"), values.get("other")
    part, prompt = values.get("part") is not None, values.get("prompt") is not None
    if what is not None and other is not None:
        return EXPLAIN_PAIR if is_spec(what) or is_spec(other) else EXPLAIN_RUNS
    if what is not None and is_spec(what):
        return EXPLAIN_PART if part else EXPLAIN_SPEC
    if values.get("tokens") or values.get("by"):
        return EXPLAIN_TOKENS if values.get("tokens") else EXPLAIN_WINS
    if prompt:
        return EXPLAIN_PROMPT
    if what is not None and part:
        return EXPLAIN_RUN_PART
    return EXPLAIN_PLAN if what is not None and (values.get("exact") or values.get("time")) else EXPLAIN_RUN


def refuse(found: Form, given: Collection[str]) -> None:
    """Raises LlmspecError for every given option that would do nothing in this form."""
    problems = []
    for option in sorted(given):
        elsewhere = [str(f) for f in FORMS if f.verb == found.verb and option in f.acts]
        if option not in found.acts:
            problems.append(
                Problem(
                    f"--{option.replace('_', '-')} does nothing in {found}",
                    hint=f"it belongs to {' and '.join(elsewhere)}",
                    consequence="it would have been ignored",
                )
            )
    problems += [
        Problem(f"--{one} and --{two} cannot be given together", hint=f"leave one out: {why}")
        for verb, one, two, why in EXCLUSIVE
        if verb == found.verb and {one, two} <= set(given)
    ]
    if problems:
        raise LlmspecError(problems)


def check_sets(sets: Collection[str]) -> None:
    """Raises LlmspecError for a key that `--set` is given twice: which one is meant cannot be known."""
    keys = [text.partition("=")[0].strip() for text in sets if "=" in text]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise LlmspecError(
            [
                Problem(
                    f"--set gives `{key}` {keys.count(key)} times",
                    hint="keep one of them",
                    consequence="only the last would have counted",
                )
                for key in twice
            ]
        )


def refuse_answers(model: Any, given: Mapping[str, Any], top: int | None = None) -> None:
    """Raises LlmspecError for options of drawn text with a model that fills masked places or tells labels, and the
    other way round."""
    if model.tells_labels or model.tags_words:
        refuse(SAMPLE_CLASSIFY, [option for option, value in given.items() if value])
    elif model.tells_numbers:
        refuse(SAMPLE_NUMBER, [*(option for option, value in given.items() if value), *["top"] * (top is not None)])
    elif model.fills:
        refuse(SAMPLE_FILL, [option for option, value in given.items() if value])
    elif top is not None:
        refuse(SAMPLE_CHAT if model.chat else SAMPLE_TEXT, ["top"])


def turns_for(model: Any, chat: bool, prompt: str, system: str) -> Any:
    """What a model is given: a dialogue's turns where it is to chat, a text where it is to continue.

    Raises LlmspecError where a dialogue has nothing to answer, or a text cannot have what only dialogues have.
    """
    from llmspec.decoding.prompts import with_system

    if system and not chat:
        refuse(SAMPLE_TEXT, ["system"])
    if chat and not prompt.strip():
        raise LlmspecError(
            "the prompt is empty, but a chat model needs one to answer",
            hint="--prompt 'What is a violin?', or --plain to let it write without one",
        )
    return with_system(prompt, system)


def prompt_of(given: str) -> str:
    """The prompt that a person gives: `-` is what stands on standard input. Says so where that goes unread."""
    from llmspec.render.terminal import err

    try:
        if given == "-" and not sys.stdin.isatty():
            return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n").removesuffix("\r")
        if (not given and stat.S_ISREG((about := os.fstat(0)).st_mode) and about.st_size) or (not given and _waiting()):
            err().print("note: standard input is not read; --prompt - reads it")
    except UnicodeDecodeError:
        raise LlmspecError("standard input is not UTF-8 text", hint="give it in UTF-8") from None
    except (OSError, ValueError, AttributeError, ImportError):  # no standard input, or one that cannot be asked
        pass
    return given


def _waiting() -> bool:
    """Whether a pipe on standard input holds something."""
    import select

    if not stat.S_ISFIFO(os.fstat(0).st_mode) or not select.select([0], [], [], 0)[0]:
        return False
    import array
    import fcntl
    import termios

    held = array.array("i", [0])
    fcntl.ioctl(0, termios.FIONREAD, held)
    return held[0] > 0
