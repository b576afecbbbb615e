"""What is checked of texts of which spans are left out: what is read and what is predicted are together the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmspec.compiler.checks import SPANNED, Check
from llmspec.data.layout import Batch
from llmspec.data.spans import SpanForm, SpanLayout

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData

LOOKED_AT = 32
"""Rows of each source that are put together again."""


def spanning(prepared: PreparedData) -> tuple[Check, ...]:
    """Of each phase that leaves out spans: rows, put together again, are the text."""
    told = list[str]()
    for name in prepared.phases:
        stream = prepared.stream(name)
        if stream.spans is None:
            continue
        rows = 0
        for source in stream.sources:
            layout = stream.layout(source)
            assert isinstance(layout, SpanLayout)
            for block in range(min(LOOKED_AT, stream.counts(source).blocks)):
                batch = stream.one(source, block)
                if wrong := mistake(batch, layout.text(block).tolist(), stream.spans):
                    path = ("phases", name, "mixture", source)
                    hint = "the layout in llmspec/data/spans.py is at fault, not your spec"
                    evidence = f"in a row of {source} in {name}, {wrong}"
                    return (Check(name=SPANNED, holds=False, path=path, evidence=evidence, hint=hint),)
                rows += 1
        left_out, count = stream.spans.phase.spans(stream.spans.size)
        told.append(
            f"{name}: {rows:,} rows put together again, {left_out:,} of {stream.spans.size:,} tokens left out in "
            f"{count:,} span{'s' * (count != 1)}"
        )
    return (Check(name=SPANNED, holds=True, evidence="; ".join(told)),) if told else ()


def mistake(batch: Batch, text: list[int], form: SpanForm) -> str:
    """What is wrong with the first row of a batch of this text; '' where nothing is. Reads the row from its sentinels,
    not by how it was made."""
    filled = int(batch.filled[0])
    targets = batch.targets[0, :filled][batch.weights[0, :filled] > 0].tolist()
    if form.start is None:
        read = batch.tokens[0, : filled + 1 - len(targets)].tolist()
    else:
        assert batch.encoder_tokens is not None and batch.encoder_filled is not None
        read = batch.encoder_tokens[0, : int(batch.encoder_filled[0])].tolist()
        if batch.tokens[0, :filled].tolist() != [form.start, *targets[:-1]]:
            return "the decoder does not read the start token and what it has to predict, one place later"
    before, after = len(form.before), len(form.after)
    if tuple(read[:before]) != form.before or tuple(read[len(read) - after :]) != form.after:
        return "the special tokens around the text are missing"
    if targets[-1:] != [form.end]:
        return "the spans do not end with the end token"
    spans, number = dict[int, list[int]](), -1
    for token in targets[:-1]:
        if token in form.sentinels:
            number += 1
            if token != form.sentinels[number]:
                return "sentinels are not in their order"
            spans[token] = []
        elif number < 0:
            return "a span has no sentinel"
        else:
            spans[form.sentinels[number]].append(token)
    whole = [t for token in read[before : len(read) - after] for t in spans.pop(token, [token])]
    if spans or whole != text:
        return "what is read and what is predicted are together not the text"
    return ""
