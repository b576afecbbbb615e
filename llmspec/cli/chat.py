"""`llmspec chat`: a conversation with a trained model."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Annotated, Any

import typer

from llmspec.api import decoding_settings
from llmspec.cli.arguments import Json, OfPhase, Quantize, RunPath, Seed, Sets
from llmspec.cli.opening import opened, tell_unknown

EXAMPLES = (
    "Examples:  `llmspec chat`  ·  `llmspec chat runs/quickstart --system 'Answer in one sentence.'`  ·  "
    "`llmspec chat runs/quickstart --set decoding.temperature=0 < questions.txt > answers.txt`\n\n"
    "In a conversation, `/help` lists the commands. Ctrl-C stops an answer, Ctrl-D ends."
)


def chat(
    run: RunPath = None,
    system: Annotated[str, typer.Option(help="System message, which stands before the conversation.")] = "",
    seed: Seed = None,
    phase: OfPhase = None,
    quantize: Quantize = None,
    set_: Sets = None,
    json_: Json = False,
) -> Any:
    """Talk with a trained model: questions are lines, typed or on standard input."""
    from llmspec.cli.chat_input import Input
    from llmspec.decoding.conversation import Conversation
    from llmspec.render import chat as shown

    asked = Input()
    model = opened(run, phase, quantize)
    talk = Conversation(model, system=system, decoding=decoding_settings(model, set_), seed=seed)
    tell_unknown(model, "", system)
    if json_:
        return conversed(talk, model, asked, lambda text: shown.document(talk, text))

    def answered(text: str) -> None:
        with asked.stopping() as stopped:
            shown.answer(talk, text, stopped)

    shown.greet(model, talk, asked.typed)
    for _ in conversed(talk, model, asked, answered):
        pass
    return None


def conversed(talk: Any, model: Any, asked: Any, answered: Callable[[str], Any]) -> Generator[Any]:
    """What `answered` makes of each question; commands between them are carried out.

    Raises LlmspecError for what is wrong on standard input. What is typed can be typed again, so that whatever goes
    wrong with it is told, and the conversation goes on.
    """
    from llmspec.cli.chat_commands import End, carry_out
    from llmspec.cli.failures import explained
    from llmspec.core.problems import LlmspecError
    from llmspec.render.chat import note
    from llmspec.render.problems import show
    from llmspec.render.terminal import OutputLost

    for text in asked:
        try:
            if text.startswith("/") and not text.startswith("//"):
                note(carry_out(talk, text))
            elif text.strip():
                text = text.removeprefix("/")
                tell_unknown(model, text)
                yield answered(text)
        except End:
            return
        except LlmspecError as error:
            if not asked.typed:
                raise LlmspecError(asked.placed(error.problems)) from None
            show(error.problems)
        except OutputLost:
            raise
        except Exception as error:
            if not asked.typed:
                raise
            show(explained(error, "chat").problems)  # what was said before is worth more than how this went wrong
