"""What all verbs share: options without effect are refused, failures become words, JSON is one document."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from llmspec.cli.failures import failures
from llmspec.core.problems import LlmspecError, Problem, nearest
from llmspec.core.visible import command, path_word, quoted

MEANT = {
    "new": "init create setup scaffold template wizard make",
    "run": "train fit start resume continue pretrain finetune fine-tune sft launch go",
    "chat": "talk converse conversation dialog dialogue repl interactive",
    "sample": "generate ask answer complete infer inference predict decode prompt write test",
    "rank": "annotate prefer preference preferences rate judge feedback",
    "embed": "embedding embeddings encode vectors vectorize similarity",
    "explain": "show info inspect describe summary plan print report diff compare plot status log logs ls list stats",
    "check": "validate lint verify dry-run dryrun estimate doctor",
    "import": "load from-hf convert-from pull",
    "merge": "fuse merge-lora merge-and-unload bake",
    "export": "convert to-hf push publish",
    "bench": "benchmark speed perf profile time measure",
    "schema": "json-schema jsonschema",
    "gc": "prune clean cleanup rm remove delete free",
}
"""What people call a verb elsewhere."""
OPTIONS = {
    "`llmspec run` resumes where an earlier run stopped, by itself": "resume continue restart",
    "an earlier run is never overwritten: --out DIR names another folder": "force overwrite yes clean",
    "--set device=CUDA trains on a GPU": "gpu gpus cuda use-cuda",
    "`llmspec run SPEC --dry-run` says what would be trained": "dry-run dryrun",
    "the spec is given without an option: `llmspec run FILE`": "config spec config-file yaml cfg",
    "the run is given without an option: `llmspec sample runs/NAME`": "model run checkpoint ckpt model-path weights",
    "--prompt - reads standard input, as in `llmspec sample --prompt - < FILE`": "input",
    "`llmspec chat` is a conversation": "interactive chat",
    "--prompts FILE answers every line of a file, as in `llmspec sample --prompts FILE`": "file prompt-file",
    "--batch N says how many answers of --prompts FILE are drawn at once": "batch-size parallel num-parallel np",
    "the environment variable LLMSPEC_THREADS says how many": "threads num-threads workers num-workers cpus",
    "what is printed goes to a file with > FILE": "quiet silent log log-file output-file verbose debug",
}
"""What to do in place of an option of other tools -> the options."""
LINES = ("check", "bench")
"""Verbs whose JSON is one line, so that logs can collect it."""


class Verb(TyperCommand):
    """A verb: returns what `--json` prints, or None when it has said everything itself."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        given: list[Any] = []
        with suppress(Exception):  # what is wrong with them is said below
            given = self.make_parser(ctx).parse_args(args=list(args))[2]
        if twice := [
            p
            for p in dict.fromkeys(given)
            if p.param_type_name == "option"
            and not p.multiple
            and not getattr(p, "is_flag", False)
            and given.count(p) > 1
        ]:
            raise LlmspecError(
                [
                    Problem(
                        f"{p.opts[-1]} is given {given.count(p)} times",
                        hint="keep one of them",
                        consequence="only the last would have counted",
                    )
                    for p in twice
                ]
            )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        from llmspec.cli.forms import check_sets, form, refuse

        verb, values = str(self.name), {name.rstrip("_"): value for name, value in ctx.params.items()}
        options = {p.name: str(p.name).rstrip("_") for p in self.params if p.param_type_name == "option"}
        given = {
            plain
            for name, plain in options.items()
            if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"
        }
        with failures(verb, bool(values.get("json"))) as answer:
            refuse(form(verb, values), given)
            check_sets(values.get("set") or ())
            read_texts(ctx.params)
            found = super().invoke(ctx)
            if isinstance(found, Generator):
                each_line(found, answer)
            elif found is not None:
                answer(found, None if verb in LINES else 1)


def each_line(documents: Generator[Any], answer: Callable[[Any, None], None]) -> None:
    """Prints a document a line, each as soon as it is there; after an interruption those that are whole."""
    from llmspec.decoding.generate import outlived

    try:
        for document in documents:
            answer(document, None)
    except KeyboardInterrupt as interruption:
        for document in outlived(documents, interruption):
            answer(document, None)


class Verbs(TyperGroup):
    """All verbs; a word that is none of them is told from a path, and from what other tools call a verb."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            raise LlmspecError(unknown(args[0], args[1:], list(self.commands)))
        return super().resolve_command(ctx, args)


def unknown(word: str, rest: list[str], verbs: list[str]) -> Problem:
    """What is said of a word that is no verb."""
    later = next((w for w in rest if w in verbs), None)
    others = [w for w in rest if w != later]
    if Path(word).suffix in (".yaml", ".yml") or Path(word).is_file():
        return Problem(
            f"`{word}` is a spec, and the command comes first", hint=command(later or "run", path_word(word), *others)
        )
    if Path(word, "plan.json").is_file():
        return Problem(
            f"`{word}` is a run directory, and the command comes first",
            hint=command(later or ("sample" if "--prompt" in rest else "explain"), path_word(word), *others),
        )
    if word in ("help", "version"):
        return Problem(f"there is no command `{word}`", hint=command(*([later] if later else []), f"--{word}"))
    near = next((verb for verb, words in MEANT.items() if word.lower() in words.split()), None) or nearest(word, verbs)
    return Problem(
        f"there is no command `{word}`",
        hint=f"did you mean: {command(near, *rest)}" if near else f"commands are: {', '.join(verbs)}",
    )


def read_texts(params: dict[str, Any]) -> None:
    """Texts whose bytes Python could not read in this locale, read as UTF-8 in place.

    Raises LlmspecError for those that are none.
    """
    wrong = []
    for name, value in params.items():
        try:
            if isinstance(value, str):
                params[name] = utf8(value)
            elif isinstance(value, list | tuple):
                params[name] = [utf8(v) if isinstance(v, str) else v for v in value]
        except UnicodeError:
            wrong.append(Problem(f"--{name.rstrip('_')} is not UTF-8 text", hint="give it in UTF-8"))
    if wrong:
        raise LlmspecError(wrong)


def utf8(text: str) -> str:
    """A word of the command line as UTF-8, where the locale (LC_ALL=C) hid that it is. Raises UnicodeError."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8")


def usage(error: Any, arguments: list[str]) -> LlmspecError:
    """A mistake in the command line itself, as typer found it; without problems where the help was all."""
    context, kind = getattr(error, "ctx", None), type(error).__name__
    message = error.format_message().strip().rstrip(".")
    if not message:
        return LlmspecError(())
    verb = next((word for word in arguments if word in MEANT), "")
    hint = f"{command(*([verb] if verb else []), '--help')} lists what it takes"
    if kind == "NoSuchOption":
        message, hint = (
            f"there is no option `{error.option_name}`" + (f" of `llmspec {verb}`" if verb else ""),
            (_option(error, context, verb, arguments) or hint),
        )
    elif extra := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message, re.DOTALL):
        message, hint = f"`{extra[1]}` is one argument too many", _extra(extra[1], verb, arguments) or hint
    elif kind == "MissingParameter" and "'SPEC'" in message:
        message, hint = "a spec is missing", f"its file, or a shipped one, as in {command(verb, 'quickstart')}; {hint}"
    return LlmspecError(message[:1].lower() + message[1:], hint=hint)


def _helps(said: str, options: list[str]) -> bool:
    """Whether advice is one for a verb with these options: what it begins with is one of them, or it names the verb."""
    first = said.split()[0]
    return not first.startswith("--") or first in options or "`llmspec " in said


def _option(error: Any, context: Any, verb: str, arguments: list[str]) -> str:
    """What may be meant by an option that is none."""
    name, command_ = str(error.option_name), getattr(context, "command", None)
    if hasattr(command_, "commands"):  # it stands before the verb
        if name in ("-v", "-V"):
            return command("--version")
        return f"options come after the command: {command(verb, *(w for w in arguments if w != verb))}" if verb else ""
    options = [o for p in getattr(command_, "params", ()) for o in p.opts if o.startswith("--")]
    key = name.lstrip("-").replace("-", "_")
    at = next((i for i, a in enumerate(arguments) if a.partition("=")[0] == name), 0)
    value = arguments[at].partition("=")[2] or next((a for a in arguments[at + 1 : at + 2] if a[:1] != "-"), "VALUE")
    word = name.lstrip("-").replace("_", "-")
    if said := next((said for said, words in OPTIONS.items() if word in words.split() and _helps(said, options)), ""):
        return said
    if "--set" in options and (setting := _setting(key, value, verb)):
        return f"keys of a spec are given by --set, as in --set {setting}"
    starts = [o for o in options if o[2:].startswith(name.lstrip("-"))]
    if near := starts[0][2:] if len(starts) == 1 else nearest(name.lstrip("-"), [o[2:] for o in options]):
        return f"did you mean `--{near}`?"
    if starts:
        return f"did you mean {' or '.join(f'`{o}`' for o in starts)}?"
    from llmspec.spec import foreign

    absent = foreign.told(key, value, "", (), {})
    if absent and absent[1]:
        return "that was fixed in training; what can still change is set as in --set decoding.temperature=0.5"
    return absent[0] if absent else ""


ANSWERING = ("sample", "chat", "rank", "explain")
"""Verbs that answer with what is trained already: of a spec they change how is decoded."""


def _setting(key: str, value: str, verb: str) -> str:
    """The `--set` that an option named like a key of a spec, of this tool or of another, stands for; else ""."""
    from llmspec.spec import foreign
    from llmspec.spec.shape import places

    if "." in key and key.partition(".")[0] in places():
        return quoted(f"{key}={value}")
    where = [f"{place}.{key}".strip(".") for place in places().get(key, ())]
    if not where and (other := foreign.told(key, value, "", (), {})) and other[1]:
        where = [other[1]]
        if meant := re.search(r"`budget: (.*)`", other[0]):
            value = meant[1].replace("N", value, 1)
    if verb in ANSWERING:
        where = [place for place in where if place.startswith("decoding.")]
    return quoted(f"{where[0].replace('<name>', 'NAME')}={value}") if where else ""


def _extra(word: str, verb: str, arguments: list[str]) -> str:
    """What may be meant by an argument too many."""
    before = arguments[arguments.index(word) - 1] if word in arguments[1:] else ""
    if verb in ("run", "check") and Path(word).suffix in (".yaml", ".yml"):
        return "one spec at a time; `extends:` in a spec joins it with others"
    if "=" in word:
        return f"--set {quoted(word)} overrides a key"
    if re.fullmatch(r"[\w.]+", before) and "." in before and "--set" in arguments:
        return f"write a key and its value as one word: --set {quoted(f'{before}={word}')}"
    return {
        "run": f"--out {quoted(word)} names the run directory",
        "sample": f"--prompt {quoted(word)} gives a prompt",
        "chat": "questions are typed once the model is open, or given on standard input",
        "schema": f"-o {quoted(word)} writes it to a file",
    }.get(verb, "")
