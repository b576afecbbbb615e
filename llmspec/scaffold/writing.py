"""The commented spec itself, as text."""

from __future__ import annotations

import json
import re
from math import ceil

from llmspec.core.units import count
from llmspec.scaffold.contents import Contents
from llmspec.scaffold.sizing import BYTES, EPOCHS, Shape, SpecSizes, TrainingLength

HEAD = """\
# {title}
# Made by `llmspec new` after looking at the files; every line is yours to change.
#     llmspec check {file} --data      reads the data and reports every problem before any training
#     llmspec explain {file}           shapes, counts, costs and the values that llmspec chooses
#     llmspec run {file}               trains; run it again to resume
name: {name}
seed: 1

model:                        # a decoder-only transformer of LLaMA's parts
  context: {context}{context_pad}# longest sequence in tokens{context_why}
  d_model: {d_model}
  layers: {layers}
  attention: {{heads: {heads}, kv_heads: {kv_heads}}}
  mlp: {{kind: swiglu, d_ff: {d_ff}}}

tokenizer: {tokenizer}

data:
  sources:
"""

SOURCE = """\
    {name}:{pad}# {about}
      kind: files
      path: {path}{extra}
      validation: {validation}{validation_pad}# {validation_why}{epochs}
      # license: whose text it is; it travels into the run and with the samples
"""

PRETRAIN = """\
  pretrain:                   # predicts every next token of plain text
    kind: pretrain
    mixture: {{{source}: 100%}}
    budget: {budget}{pad}# {why}
    micro_batch_size: {batch}
    optimizer: {{kind: muon, lr: 2e-2, adamw: {{lr: 4e-3}}}}
    schedule: {{kind: linear, warmup: 2%}}
"""

SFT = """\
  chat:                       # learns to answer: only the assistant's turns are predicted
    kind: sft
    from: pretrain
    mixture: {{{source}: 100%}}
    budget: {budget}{pad}# {why}
    micro_batch_size: {batch}
    optimizer: {{kind: adamw, lr: 1e-3}}
    schedule: {{kind: linear, warmup: 5%}}
    # prompts: ["..."]        # what samples answer on the way; the first held-out questions if omitted
"""

DECODING = """\

decoding:                     # how text is drawn; `llmspec explain RUN --prompt ...` shows what each does
  temperature: 0.8
  top_p: 0.95
  max_tokens: {most}
"""


HELD_OUT = (
    (500, "hash 5%", "a twentieth of the documents"),
    (100, "hash 10%", "a tenth of the documents"),
    (0, "tail 10%", "the last tenth"),
)
"""Fewest documents, what is kept for validation, and in words."""


def spec(
    name: str,
    file: str,
    text: tuple[str, Contents] | None,
    chat: tuple[str, Contents] | None,
    sizes: SpecSizes,
    shape: Shape,
    lengths: tuple[TrainingLength, TrainingLength | None],
    why: str,
) -> str:
    """The YAML text. `text` and `chat` are (folder as the spec names it, what was found in it)."""
    bpe = f"{{kind: bpe, vocab: {sizes.vocab}}}"
    tokenizer = (
        f"{{kind: byte}}              # {_total(text, chat)} are too few to train a vocabulary on"
        if sizes.vocab == BYTES
        else f"{_padded(bpe, 19)}# trained on the text below"
    )
    out = HEAD.format(
        title=f"A model of {' and '.join(where for where, _ in filter(None, (text, chat)))}".replace("\n", " "),
        file=file,
        name=name,
        context=sizes.context,
        context_pad=" " * (19 - len(str(sizes.context))),
        context_why="; nine dialogues of ten fit" if chat else "",
        tokenizer=tokenizer,
        **shape._asdict(),
    )
    pretrain, sft = lengths
    epochs = (sft.epochs if sft else 0.0) if text else max(pretrain.epochs, sft.epochs if sft else 0.0)
    if text:
        out += source("text", *text, pretrain.epochs)
    if chat:
        out += source("dialogues", *chat, epochs)
    first = "text" if text else "dialogues"
    budget = pretrain.budget(first)
    out += "\nphases:\n" + PRETRAIN.format(
        source=first,
        budget=budget,
        batch=sizes.batch,
        why=why,
        pad=" " * max(1, 18 - len(budget)),
    )
    if sft:
        budget = sft.budget("dialogues")
        out += SFT.format(
            source="dialogues",
            budget=budget,
            batch=sizes.batch,
            why="within that time",
            pad=" " * max(1, 18 - len(budget)),
        )
    return out + DECODING.format(most=min(120, sizes.context // 2))


def source(name: str, where: str, found: Contents, epochs: float) -> str:
    """One source of the spec, read `epochs` times."""
    paths = [_path(where, pattern) for pattern in found.patterns]
    kinds = ", ".join(f"{n:,} {suffix or 'file'}" for suffix, n in found.kinds.items())
    about = (
        f"{kinds}: {'' if found.whole else 'about '}{found.documents:,} "
        f"{'dialogue' if found.format or found.template else 'record' if found.records else 'document'}"
        f"{'s' * (found.documents != 1)}, "
        f"{count(found.characters)} characters"
    )
    extra = ""
    if found.template:
        extra = (
            f"\n      # guessed from the only two fields of text; swap them if it is the other way round"
            f"\n      dialogue: {{user: {json.dumps(found.template['user'], ensure_ascii=False)}, "
            f"assistant: {json.dumps(found.template['assistant'], ensure_ascii=False)}}}"
        )
    elif found.format:
        extra = f"   # records in the {found.format} format are recognised"
    most = ceil(epochs * 3)  # a wide margin: how much of so little text validation takes cannot be foreseen
    often = ""
    if epochs > EPOCHS:
        often = f"\n      max_epochs: {_padded(str(most), 12)}# so little text, so often: the model will memorise it"
    # So many that none of them being held out by its hash is less likely than one in ten thousand.
    validation, judged = next(choice for least, *choice in HELD_OUT if found.documents >= least)
    return SOURCE.format(
        name=name,
        about=about,
        path=paths[0] if len(paths) == 1 else f"[{', '.join(paths)}]",
        extra=extra,
        epochs=often,
        validation=validation,
        validation_why=f"{judged} is kept for validation",
        pad=" " * (25 - len(name)),
        validation_pad=" " * (12 - len(validation)),
    )


def named(folder: str) -> str:
    """A spec's name from a folder's: letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).strip("-._") or "my-model"


def _path(where: str, pattern: str) -> str:
    whole = pattern if where in (".", "") else f"{where}/{pattern}"
    return json.dumps(whole, ensure_ascii=False)


def _padded(text: str, width: int) -> str:
    return text + " " * max(2, width - len(text))


def _total(*found: tuple[str, Contents] | None) -> str:
    return f"{count(sum(one[1].characters for one in found if one))} characters"


def example(name: str, file: str, quickstart: str) -> str:
    """The quickstart's spec under another name, for whoever wants to change it step by step."""
    head = (
        f"# The shipped quickstart, to be changed: `llmspec run {file}` trains it, `llmspec check {file}`\n"
        "# says what is wrong with it. With --text or --chat, `llmspec new` looks at your own files instead.\n"
    )
    lines = quickstart.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("name:"))
    return head + f"name: {name}\n" + "".join(lines[start + 1 :])
