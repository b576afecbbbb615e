"""`llmspec export --to gguf`: the model of a run, or one without, as a GGUF file, read back at once by our own importer
and, where llama-cpp-python is installed, by llama.cpp."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmspec.core.problems import LlmspecError, Problem, RunError
from llmspec.core.quantised import as_float32
from llmspec.decoding.language_model import LanguageModel, open_model
from llmspec.exchange import held_out
from llmspec.exchange.card import gguf_card
from llmspec.exchange.ending import Ending, ending
from llmspec.exchange.exporting import Exported
from llmspec.exchange.figures import FileFigures, OddRows
from llmspec.exchange.held_out import DEAR, Cost, HeldOut
from llmspec.exchange.modelfile import modelfile
from llmspec.exchange.read_back import EXACT, Answers, Compared, Questions, ReadBack, answers, ask, questions, told
from llmspec.formats.gguf.exporting import Placed, check_type, placed, write_model
from llmspec.formats.gguf.files import SUFFIX
from llmspec.formats.gguf.proposing import Proposal, proposal_of
from llmspec.formats.gguf.vocabulary import vocabulary
from llmspec.formats.hf.exporting import template_of
from llmspec.formats.opening import stored_model
from llmspec.runs.files import new_folder, write_text

DEAREST = {"f32": 1e-4, "f16": 0.005, "bf16": 0.01, "q8_0": 0.02}
"""Nats per token that a file of a type may cost, products with rounded activations counted in; DEAR of any other."""
ROUGHEST = {"f32": 0.0, "f16": 1e-3, "bf16": 5e-3, "q8_0": 0.02}
"""How far off a tensor's numbers may be (root mean square of the error, by that of the numbers); ROUGH of others."""
ROUGH = 0.2
APART = {"f32": 1e-3, "f16": 0.01, "bf16": 0.03}
"""How far logits of llama.cpp may be from ours of the same file (root mean square, by their spread): it rounds what
it multiplies such weights with, too. FAR for other types."""
FAR = 0.15
Progress = Callable[[str, float, float], None]


def export_gguf(
    model: LanguageModel,
    out: Path,
    *,
    weights: Mapping[str, Any] | None = None,
    type: str = "",
    origin: str = "",
    family: str = "",
    text: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Exported:
    """Writes a model into a new folder, as NAME.gguf with a model card and Ollama's Modelfile, and reads it back.

    Args:
        model: opened.
        out: the folder, absent or empty.
        weights: the model's weights, of which some may be in types of their own; else those that it computes with.
        type: what matrices are written in; '' leaves each in the type that it has.
        origin: the architecture that is tried first.
        family: the only architecture that is tried; all if ''.
        text: a file on which the cost is measured; the run's validation text if omitted.
        progress: is told what is done.

    Raises LlmspecError where the format has no such model or tokenizer, the folder cannot be written, what is read back
    differs, the type costs too much, or what it costs cannot be measured; no folder is left then.
    """
    check_type(type)
    end = ending(model)
    generates(end)
    plan = end.plan
    proposal = proposal_of(plan.model, origin, family)
    template = template_of(plan, model.codec, model.pairs)
    words = vocabulary(model.codec, plan.model.vocab, template, _begins(model, template))
    weights = end.weights(model.weights() if weights is None else dict(weights))
    how = placed(proposal, plan, weights, type)
    held = _measurable(model, text, type, proposal, weights, how, progress)
    with new_folder(out) as aside:
        name = plan.name + (f"-{type}" if type else "") + SUFFIX
        licences = {about.license for about in model.attributions if about.license}
        license = licences.pop() if len(licences) == 1 else ""
        write_model(aside / name, proposal, plan, weights, words, how, license=license, progress=progress)
        ollama = modelfile(name, plan, model.codec, model.chat, model.pairs)
        write_text(aside / "Modelfile", ollama.text)
        progress("reading it back", 0, 0)
        found, cost = _read_back(model, aside / name, proposal, weights, how, held)
        figures = FileFigures(
            weights=type,
            counts=how.counts(),
            size=how.size,
            rows=_rows(how),
            cost=cost,
            unmeasured=held if isinstance(held, str) else "",
            notices=(*words.notices, *ollama.notices),
        )
        architecture = proposal.table.model_type
        given = (plan, model.phase, architecture, model.attributions, figures, found.compared, model.pairs)
        write_text(aside / "README.md", gguf_card(*given))
        files = tuple(sorted(p.name for p in aside.iterdir()))
    said = {"path": str(out), "architecture": architecture, "files": files, "left_out": end.left_out}
    return Exported.model_validate({**said, "compared": tuple(found.compared), "unread": found.unread, "file": figures})


def _measurable(
    model: LanguageModel,
    text: Path | None,
    type: str,
    proposal: Proposal,
    weights: Mapping[str, Any],
    how: Placed,
    progress: Progress,
) -> HeldOut | str:
    """The text that the cost is measured on, or why there is none. Raises LlmspecError where there is none, and numbers
    would be rounded to a type of few bits."""
    held = held_out.found(model, text, progress)
    if not isinstance(held, str) or not held_out.few_bits(type):
        return held
    rounded = [
        name
        for group in proposal.groups
        for name, _ in group.theirs
        if how.types[name] == type and any(getattr(weights[one], "type", "f32") != type for one, _ in group.ours)
    ]
    if rounded:
        raise held_out.refused(type, held, len(rounded))
    return held


def generates(end: Ending) -> None:
    """Raises RunError for a model that was trained last to give labels or numbers."""
    if end.labelled or end.plan.model.generating_head is None:
        raise RunError(
            f"the model ends in a head `{end.own}`, and GGUF files are written of models that draw text",
            hint="llmspec export RUN --to hf, which has heads of labels and numbers; or another phase, with --phase",
            consequence="llama.cpp has such heads for encoders, whose GGUF files are not written here",
        )


def _begins(model: LanguageModel, template: str) -> bool:
    """Whether prompts begin with the bos token: in the form of the chat template, where the model answers turns."""
    specials = model.codec.specials
    if not (template and model.chat):
        return specials.bos is not None
    return specials.bos is not None and model.tokens("?")[:1] == [specials.bos]


def _rows(how: Placed) -> tuple[OddRows, ...]:
    """The tensors that could not be written in the type that they were to have, by type and length of their rows."""
    found = [*how.rows.values()]
    return tuple(
        OddRows(type=name, length=length, tensors=found.count((name, length))) for name, length in sorted({*found})
    )


# -- reading back ------------------------------------------------------------------------------------------------------
def _read_back(
    model: LanguageModel,
    file: Path,
    proposal: Proposal,
    weights: Mapping[str, Any],
    how: Placed,
    held: HeldOut | str,
) -> tuple[ReadBack, Cost | None]:
    """What the readers make of a file. Raises LlmspecError with everything that differs more than its types do."""
    problems = _weights_apart(file, weights, how, proposal)
    asked, again = questions(model), open_model(file)
    own = answers(again, asked, again.chat)
    found, unread, cost = [asked.compared("llmspec", own)], list[str](), None
    if isinstance(held, HeldOut):
        before, after = held_out.nats(model, held), held_out.nats(again, held)
        cost = Cost(text=held.source, tokens=held.tokens, before=before, after=after)
        problems += _dear(cost, how)
    exact = {*how.types.values()} == {"f32"}
    problems += [] if not exact or found[0].logits <= EXACT else [f"logits are {found[0].logits:.2g} apart"]
    problems += _differs(found[0], exact, "llmspec")
    if importlib.util.find_spec("llama_cpp"):
        with told(unread):
            theirs, said = _llama(file, asked, again, own, how, held)
            found.append(theirs)
            problems += said
    if problems:
        raise LlmspecError(
            [
                *(Problem(f"{file.name}, read back: {what}") for what in problems),
                Problem("the export is not the model, and nothing was written", hint="another --type, such as q8_0"),
            ]
        )
    return ReadBack(found, tuple(unread)), cost


def _differs(one: Compared, greedy: bool, reader: str) -> list[str]:
    """What of a reader's answers is not the model's; `greedy`: whether that of drawn tokens counts."""
    named = {
        "ids of texts": one.texts,
        "the form of dialogues": one.chat,
        "greedy text": one.greedy if greedy else None,
    }
    return [
        f"{what} by {reader} differ{'s' if what[0] in 'gt' else ''}" for what, same in named.items() if same is False
    ]


def _weights_apart(file: Path, weights: Mapping[str, Any], how: Placed, proposal: Proposal) -> list[str]:
    """Tensors of ours whose numbers come back further off than their type rounds."""
    import numpy as np

    stored = stored_model(file)
    _, back, _ = stored.weights(stored.plan())
    wrong = []
    for group in proposal.groups:
        most = max(ROUGHEST.get(how.types[name], ROUGH) for name, _ in group.theirs)
        for name, _ in group.ours:
            own = as_float32(weights[name])
            off = as_float32(back[name]) - own
            error, size = float(np.square(off, dtype=np.float64).sum()), float(np.square(own, dtype=np.float64).sum())
            if not error <= most**2 * size:
                wrong.append(f"{name} is off by {np.sqrt(error / size) if size else np.inf:.2g} of its size")
    return wrong


def _dear(cost: Cost, how: Placed) -> list[str]:
    most = max(DEAREST.get(name, DEAR) for name in how.types.values())
    if cost.more <= most:
        return []
    return [
        f"it costs {cost.more:.4f} nats per token on {cost.text} ({cost.before:.4f} before), and {most:g} is the most "
        "that such a file may cost"
    ]


def _llama(
    file: Path, asked: Questions, again: LanguageModel, own: Answers, how: Placed, held: HeldOut | str
) -> tuple[Compared, list[str]]:
    """What llama.cpp makes of a file, beside what we make of the same file; and what is wrong with that."""
    import numpy as np

    rows = held.rows if isinstance(held, HeldOut) else ()
    known, theirs = ask("llama.cpp", "llmspec.exchange.llama_worker", file, {**asked.plain(), "rows": rows})
    reader = f"llama.cpp (llama-cpp-python {known['version']})"
    found = asked.compared(reader, theirs)
    spread = float(own.logits.std()) or 1.0
    apart = float(np.sqrt(np.square(theirs.logits - own.logits).mean())) / spread
    most = max(APART.get(name, FAR) for name in how.types.values())
    wrong = [] if apart <= most else [f"logits of llama.cpp are off by {apart:.2g} of their spread, at most {most:g}"]
    same = own.greedy == theirs.greedy or _tied(again, asked, own, theirs)
    wrong += _differs(found, False, "llama.cpp")
    wrong += [] if same else ["greedy text of llama.cpp is another than ours of the same file"]
    nats = known["nats"] / held.tokens if isinstance(held, HeldOut) else None
    return found.model_copy(update={"greedy": same if asked.drawn else None, "nats": nats}), wrong


def _tied(model: LanguageModel, asked: Questions, own: Answers, theirs: Answers) -> bool:
    """Whether two greedy texts part where two tokens are nearer to each other than both libraries are."""
    if own.greedy is None or theirs.greedy is None:
        return own.greedy == theirs.greedy
    at = next((i for i, pair in enumerate(zip(own.greedy, theirs.greedy, strict=True)) if pair[0] != pair[1]), None)
    if at is None:
        return True
    last = model.logits([*asked.prompt, *own.greedy[:at]])[0, -1]
    between = float(abs(last[own.greedy[at]] - last[theirs.greedy[at]]))
    return between <= 2 * float(abs(own.logits - theirs.logits).max())
