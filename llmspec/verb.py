"""What all verbs share: options without effect are refused, failures become words, JSON is one document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup

from llmspec.core.problems import LlmspecError, Problem, nearest
from llmspec.core.visible import command, path_word
from llmspec.failures import failures

MEANT = {
    "new": "init create setup scaffold template wizard make",
    "run": "train fit start resume continue pretrain finetune fine-tune sft launch go",
    "sample": "generate chat talk ask answer complete infer inference predict decode prompt write test",
    "explain": "show info inspect describe summary plan print report diff compare plot status log logs ls list stats",
    "check": "validate lint verify dry-run dryrun estimate doctor",
    "bench": "benchmark speed perf profile time measure", "schema": "json-schema jsonschema",
}
"""What people call a verb elsewhere."""
LINES = ("check", "bench")
"""Verbs whose JSON is one line, so that logs can collect it."""


class Verb(TyperCommand):
    """A verb: returns what `--json` prints, or None when it has said everything itself."""

    def invoke(self, ctx: Any) -> Any:
        from llmspec.forms import check_sets, form, refuse

        verb, values = str(self.name), {name.rstrip("_"): value for name, value in ctx.params.items()}
        options = {p.name: str(p.name).rstrip("_") for p in self.params if p.param_type_name == "option"}
        given = {plain for name, plain in options.items()
                 if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
        with failures(verb, bool(values.get("json"))) as answer:
            refuse(form(verb, values), given)
            check_sets(values.get("set") or ())
            check_texts(values)
            found = super().invoke(ctx)
            if found is not None:
                answer(found, None if verb in LINES else 1)


class Verbs(TyperGroup):
    """All verbs; a word that is none of them is told from a path, and from what other tools call a verb."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            raise LlmspecError(unknown(args[0], args[1:], list(self.commands)))
        return super().resolve_command(ctx, args)


def unknown(word: str, rest: list[str], verbs: list[str]) -> Problem:
    """What is said of a word that is no verb."""
    if Path(word).suffix in (".yaml", ".yml") or Path(word).is_file():
        return Problem(f"`{word}` is a spec, and the verb is missing", hint=command("run", path_word(word), *rest))
    if Path(word, "plan.json").is_file():
        return Problem(f"`{word}` is a run directory, and the verb is missing",
                       hint=command("explain", path_word(word), *rest))
    near = next((verb for verb, words in MEANT.items() if word.lower() in words.split()), None) or nearest(word, verbs)
    return Problem(f"there is no verb `{word}`",
                   hint=f"did you mean: {command(near, *rest)}" if near else f"verbs are: {', '.join(verbs)}")


def check_texts(values: dict[str, Any]) -> None:
    """Raises LlmspecError for words that are no text: bytes of an argument that are no UTF-8, or a NUL."""
    wrong = [name for name, value in values.items() for text in (value if isinstance(value, list) else [value])
             if isinstance(text, str) and any(0xD800 <= ord(c) <= 0xDFFF for c in text)]
    if wrong:
        raise LlmspecError([Problem(f"--{name} is not UTF-8 text", hint="give it in UTF-8, or as \\u escapes of YAML")
                            for name in dict.fromkeys(wrong)])


def usage(error: Any, arguments: list[str]) -> LlmspecError:
    """A mistake in the command line itself, as typer found it; without problems where the help was all."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "llmspec"
    message = error.format_message().strip().rstrip(".")
    if not message:
        return LlmspecError(())
    hint = f"{where} --help says what it takes"
    verbs = getattr(getattr(context, "command", None), "commands", {})
    if verb := next((word for word in arguments if word in verbs), None):
        hint = f"options stand after the verb: {command(verb, *(w for w in arguments if w != verb))}"
    return LlmspecError(message[:1].lower() + message[1:], hint=hint)
