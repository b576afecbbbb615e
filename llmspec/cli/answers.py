"""The answers that `llmspec rank` puts in order: a model draws them, or they stand beside their prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from llmspec.cli.prompts import turns_or_text, wrong
from llmspec.core.problems import LlmspecError, Problem, one_of
from llmspec.decoding.prompt_file import FilePrompt


class Said(NamedTuple):
    """An answer that nobody draws."""

    text: str
    ended: bool = True


class Answers(Protocol):
    """Where answers come from."""

    seed: int
    """Of the order in which a person sees them."""
    advice: str
    """What makes answers differ more."""

    def of(self, prompts: Sequence[FilePrompt], say: Callable[[str], None]) -> Iterator[tuple[FilePrompt, list[Any]]]:
        """Each prompt with its answers, those that are said twice once."""


class Drawn:
    """A model's own, `n` to a prompt."""

    advice = "more answers, --n, or a higher decoding.temperature"

    def __init__(
        self, model: Any, prompts: Sequence[FilePrompt], n: int, seed: int | None, plain: bool, decoding: Any
    ) -> None:
        """Raises LlmspecError for prompts that the model cannot answer, and where all answers would be alike."""
        self._model, self._n, self._decoding = model, n, decoding
        self._chat = model.chat and not plain
        self.seed = model.seed(seed, decoding)
        if problems := [p for one in prompts for p in wrong(model, one, turns_or_text(one, ""), self._chat, "")]:
            raise LlmspecError(problems)
        if not decoding.temperature:
            raise LlmspecError(
                "at temperature 0 all answers to a prompt are the same",
                "--set decoding.temperature=0.9",
                "there would be nothing to put in order",
            )

    def of(self, prompts: Sequence[FilePrompt], say: Callable[[str], None]) -> Iterator[tuple[FilePrompt, list[Any]]]:
        given = [turns_or_text(prompt, "") for prompt in prompts]
        whole = self._model.generate_batch(given, n=self._n, seed=self.seed, chat=self._chat, decoding=self._decoding)
        with closing(whole):
            for done, found in enumerate(whole, 1):
                say(f"answering: {done:,} of {len(prompts):,} prompts")
                yield prompts[found[0].prompt], list({answer.text: answer for answer in found}.values())


class Given:
    """Those that a file holds, under one key as a list of texts, or as a text under each of several."""

    advice = "another reward may tell them apart"

    def __init__(self, prompts: Sequence[FilePrompt], keys: Sequence[str], seed: int | None) -> None:
        """Raises LlmspecError naming every record without them."""
        self.seed, self._keys = seed or 0, keys
        found = [_wrong(prompt, keys) for prompt in prompts]
        if problems := [problem for problem in found if problem]:
            raise LlmspecError(problems)

    def of(self, prompts: Sequence[FilePrompt], say: Callable[[str], None]) -> Iterator[tuple[FilePrompt, list[Any]]]:
        for done, prompt in enumerate(prompts, 1):
            say(f"ranking: {done:,} of {len(prompts):,} prompts")
            yield prompt, [Said(text) for text in dict.fromkeys(_answers(prompt, self._keys))]


def _answers(prompt: FilePrompt, keys: Sequence[str]) -> list[Any]:
    """What stands under the keys of a prompt's record."""
    found = [prompt.record[key] for key in keys]
    return found[0] if len(keys) == 1 and isinstance(found[0], list) else found


def _wrong(prompt: FilePrompt, keys: Sequence[str]) -> Problem | None:
    """Why a record does not give answers to its prompt; None where it does."""
    if missing := [key for key in keys if key not in prompt.record]:
        others = [key for key in prompt.record if key not in ("prompt", "messages")]
        hint = one_of(missing[0], others) if others else 'write {"prompt": "…", "answers": ["…", "…"]} in a .jsonl file'
        return Problem(f"`{missing[0]}` is not in this record, and --answers names it", hint=hint, mark=prompt.mark)
    answers = _answers(prompt, keys)
    names = ", ".join(f"`{key}`" for key in keys)
    if odd := [i for i, text in enumerate(answers, 1) if not (isinstance(text, str) and text.strip())]:
        return Problem(f"answer {odd[0]} of {names} is not a text that says something", mark=prompt.mark)
    if len(answers) < 2:
        return Problem(
            f"{names} gives one answer, and two are needed to put them in order" if answers else f"{names} is empty",
            hint="leave the record out, or name a second key: --answers chosen,rejected",
            mark=prompt.mark,
        )
    return None
