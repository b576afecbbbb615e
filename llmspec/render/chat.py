"""A conversation on the terminal: answers as they are drawn, and how much of the context is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmspec.render.pace import Pace
from llmspec.render.samples import answer_data, credit, waited
from llmspec.render.terminal import err, out


def note(text: str) -> None:
    """A word beside the conversation."""
    err(style="dim", soft_wrap=True).print(text)


def greet(model: Any, talk: Any, typed: bool) -> None:
    """Who answers, and whom to name for it."""
    if typed:
        note(f"{model.plan.name}, with a context of {talk.context:,} tokens; /help lists the commands, Ctrl-D ends")
    if line := credit(model):
        note(line)


def answer(talk: Any, question: str, stopped: Callable[[], bool]) -> None:
    """Streams the answer to a question, until its end or until it is `stopped`."""
    pace, reason, left_out, said = Pace(), "", talk.left_out, len(talk.turns)
    events = talk.ask(question, stopped)
    console = out()
    for event in waited(events, "reading what was said"):
        if not pace.tokens:
            tell_left_out(talk, left_out)
        pace.token()
        console.write(event.text)
        reason = event.finish_reason or reason
        if stopped() and not reason:
            break
    events.close()
    if not pace.tokens:
        note(f"[stopped by Ctrl-C before the first token; context {talk.used:,} of {talk.context:,}]")
        tell_nothing(talk, said)
        return
    console.write("\n")
    note(f"[{pace.told()}, ended by {reason or 'Ctrl-C'}; context {talk.used:,} of {talk.context:,}]")
    tell_nothing(talk, said)


def tell_nothing(talk: Any, before: int) -> None:
    """Says that a question is none of the conversation, since nothing was answered."""
    if len(talk.turns) == before:
        note("note: nothing was said, so that the conversation goes on without this question")


def tell_left_out(talk: Any, before: int) -> None:
    """Says that the model reads less of the conversation than before."""
    if talk.left_out > before:
        note(
            f"note: the conversation is longer than the context of {talk.context:,} tokens: "
            f"its oldest {talk.left_out} turns are no longer read"
        )


def document(talk: Any, question: str) -> dict[str, Any]:
    """JSON-able form of a question and its answer, which is drawn here."""
    from llmspec.decoding.generate import whole_answers

    left_out, said = talk.left_out, len(talk.turns)
    ((found,),) = whole_answers(talk.ask(question), 1)
    tell_left_out(talk, left_out)
    tell_nothing(talk, said)
    context = {"used": talk.used, "tokens": talk.context, "left_out": talk.left_out}
    return {"prompt": question, "answer": answer_data(found), "context": context}
