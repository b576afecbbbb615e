"""The batches of a phase, each a pure function of its step: a cursor is no more than a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmspec.core.hashing import digest
from llmspec.core.problems import DataError, Problem, RunError
from llmspec.data.advice import advice
from llmspec.data.apart import lonely
from llmspec.data.compared import AnyAsking, ComparedAsking, ComparedLayout
from llmspec.data.documents import DocumentLayout
from llmspec.data.framed import Around, FramedLayout
from llmspec.data.layout import Batch, Counts, Layout, Pair, PlainLayout, blank, random_bits
from llmspec.data.ledger import Ledger
from llmspec.data.mixture import Demand, portions, too_often
from llmspec.data.packing import DialogueLayout
from llmspec.data.pairs import AnswerLayout, CutLayout, PrefixLayout
from llmspec.data.prompts import PromptLayout
from llmspec.data.shaping import NOTHING_LEARNED, TOO_LONG, VALIDATED
from llmspec.data.spans import SpanForm, SpanLayout
from llmspec.data.tags import TagAsking, TagLayout
from llmspec.data.tokens import TokenSet
from llmspec.parts.phases import Phase
from llmspec.parts.phases.turns import Turns
from llmspec.parts.sources.notes import Notes

if TYPE_CHECKING:
    from llmspec.compiler.plan import SharePlan


class PhaseStream:
    """Random access to what a phase reads. Row order is drawn from the seed; shares hold in every stretch of it."""

    def __init__(
        self,
        name: str,
        phase: Phase,
        data: Mapping[str, TokenSet],
        *,
        max_epochs: Mapping[str, float],
        seed: int,
        context: int,
        end: int,
        content: str = "",
        dropped: Mapping[str, Notes] | None = None,
        contaminated: Mapping[str, int] | None = None,
        pair: Pair | None = None,
        asking: AnyAsking | None = None,
        spans: SpanForm | None = None,
        around: Around | None = None,
    ) -> None:
        """`data` are the training tokens of the mixture's sources; `dropped` are those that are not read, by reason,
        `contaminated` those that are also in validation. `pair` is that of a model with an encoder, `asking` that of a
        phase that asks something of each document, `spans` that of one which leaves out spans; `around` are special
        tokens before and behind stretches of plain text.

        Raises:
            DataError: a source shorter than a block, or read more often than it allows; all of them at once.
        """
        self.name, self.phase, self.context, self._end, self.pair, self.asking = name, phase, context, end, pair, asking
        self.spans, self.around = spans, around
        self.sources = tuple(source for source, share in phase.mixture.items() if share.percent > 0)
        self.contaminated = {source: (contaminated or {}).get(source, 0) for source in self.sources}
        self.dropped: dict[str, dict[str, int]] = {}
        """Source -> reason -> documents that the phase does not read."""
        self._unread = dict(dropped or {})
        how = (pair, asking, spans, around)
        self._layouts = {s: layout_of(data[s], phase, context, end, (seed, name, s), *how) for s in self.sources}
        for source, layout in self._layouts.items():
            before = self._unread.setdefault(source, Notes())
            self.dropped[source] = {why: n for why, n in {**before.counts, **layout.dropped}.items() if n}
        self._check_length(data)
        demands = [
            Demand(s, phase.mixture[s].fraction, layout.blocks_per_epoch, layout.tokens_per_block, max_epochs[s])
            for s, layout in self._layouts.items()
        ]
        asked = (phase.budget, demands, phase.micro_batch_size, phase.batches)
        if problems := too_often(*asked, phase.steps_per_rollout):
            raise DataError(problem.at("phases", name) for problem in problems)
        self.steps, blocks = portions(*asked)
        self._blocks = dict(zip(self.sources, blocks, strict=True))
        self._check_company()
        self._order(seed)
        self.key = self._hash(content, seed)
        """Hash of all that shapes the batches."""

    def _hash(self, content: str, seed: int) -> str:
        phase, pair, asking, spans = self.phase, self.pair, self.asking, self.spans
        return digest(
            {
                "content": content,
                "seed": seed,
                "context": self.context,
                "phase": self.name,
                "blocks": self._blocks,
                "micro_batch_size": [phase.micro_batch_size, phase.gradient_accumulation_steps],
                **({"batch_size_warmup": phase.batch_size_warmup.percent} if phase.batch_size_warmup.percent else {}),
                "mask": phase.document_mask,
                "train_on": list(getattr(phase, "train_on", ())),
                **({} if pair is None else {"pair": [pair.context, pair.start]}),
                **({"truncation": cut} if (cut := getattr(phase, "truncation", "none")) != "none" else {}),
                **({} if asking is None else {"asking": asking.identity()}),
                **({} if spans is None else {"spans": spans.identity()}),
                **({"cuts": phase.cuts} if phase.cuts else {}),
                **({} if self.around is None else {"around": [list(tokens) for tokens in self.around]}),
            }
        )

    def batch(self, step: int, micro: int = 0) -> Batch:
        """What pass `micro` of optimizer step `step` reads. Raises IndexError outside the phase."""
        if not (0 <= step < self.steps and 0 <= micro < self.passes(step)):
            raise IndexError(f"{self.name} has no pass {micro} of step {step}")
        size = self.phase.micro_batch_size
        begin = (self.phase.batches.before(step, self.steps) + micro) * size
        source, block = self._source[begin : begin + size], self._block[begin : begin + size]
        batch = self._blank(size)
        batch.source[:] = source
        for i, name in enumerate(self.sources):
            if len(rows := np.flatnonzero(source == i)):
                self._layouts[name].gather(batch, rows, block[rows])
        return batch

    def blocks(self, step: int) -> list[tuple[str, int]]:
        """(source, block of it) of each row that the one pass of a step reads."""
        begin, size = step * self.phase.micro_batch_size, self.phase.micro_batch_size
        source, block = self._source[begin : begin + size].tolist(), self._block[begin : begin + size].tolist()
        return [(self.sources[i], n) for i, n in zip(source, block, strict=True)]

    def passes(self, step: int) -> int:
        """How many passes an optimizer step has."""
        return self.phase.batches.at(step, self.steps)

    def _blank(self, rows: int) -> Batch:
        batch = blank(rows, self.context, self._end, self.pair)
        return batch if self.asking is None else batch._replace(labels=self.asking.blank(rows))

    def counts(self, source: str) -> Counts:
        """Tokens that the whole phase reads of a source."""
        return self._layouts[source].counts(self._blocks[source])

    def needed(self, source: str) -> int:
        """Tokens of context that hold nine tenths of a source's dialogues; plain text fits any."""
        layout = self._layouts[source]
        return layout.needed if isinstance(layout, DialogueLayout | DocumentLayout) else self.context

    @property
    def cut(self) -> dict[str, int]:
        """By source: documents of which the beginning alone is read."""
        return {s: layout.cut for s, layout in self._layouts.items() if isinstance(layout, DocumentLayout)}

    def cropped(self, source: str) -> dict[str, int]:
        """Side -> training pairs of a source that the phase cuts."""
        layout = self._layouts[source]
        return layout.cropped if isinstance(layout, AnswerLayout) else {}

    def speaks(self, source: str) -> bool:
        """Whether a source is read as dialogues."""
        return isinstance(self._layouts[source], DialogueLayout)

    def weighs(self, source: str) -> bool:
        """Whether records of a source have weights."""
        return self._layouts[source].weighs is not None

    def layout(self, source: str) -> Layout:
        """How the text of a source becomes blocks."""
        return self._layouts[source]

    def one(self, source: str, block: int) -> Batch:
        """A block of a source as the row of a batch."""
        batch = self._blank(1)
        self._layouts[source].gather(batch, np.zeros(1, np.int64), np.array([block]))
        return batch

    def drawn(self, source: str, most: int) -> Batch:
        """Up to `most` of the blocks that the phase reads of a source, evenly spread, as the rows of one batch."""
        n = self._blocks[source]
        blocks = np.unique(np.linspace(0, max(0, n - 1), min(n, most)).round().astype(np.int64))
        batch = self._blank(len(blocks))
        if len(blocks):
            self._layouts[source].gather(batch, np.arange(len(blocks)), blocks)
        return batch

    def passes_over(self, source: str) -> int:
        """Passes in which `every` block of a source is read."""
        return -(-self._once(source) // self.phase.micro_batch_size)

    def every(self, source: str) -> Iterator[Batch]:
        """Each block of a source that the phase reads, once, in batches of a pass; rows after the last are padding."""
        rows, blocks = self.phase.micro_batch_size, self._once(source)
        for begin in range(0, blocks, rows):
            some = np.arange(begin, min(begin + rows, blocks))
            batch = self._blank(rows)
            batch.source[:] = self.sources.index(source)
            self._layouts[source].gather(batch, np.arange(len(some)), some)
            yield batch

    def _once(self, source: str) -> int:
        return min(self._blocks[source], int(self._layouts[source].blocks_per_epoch))

    def again(self, step: int, read: Mapping[str, int]) -> tuple[int, int]:
        """(rows from `step` on that are among the first `read` blocks of their source, rows before it that are not):
        what a phase that begins there reads again where those were read before, and what it never reads."""
        rows = step * self.phase.micro_batch_size * self.phase.gradient_accumulation_steps
        known = np.array([read.get(name, 0) for name in self.sources])[self._source] > self._block
        return int(np.count_nonzero(known[rows:])), int(np.count_nonzero(~known[:rows]))

    def cursor(self, step: int) -> dict[str, Any]:
        """JSON-able place before `step`."""
        return {"phase": self.name, "step": step, "stream": self.key}

    def check_cursor(self, cursor: Mapping[str, Any]) -> int:
        """The step to go on with. Raises RunError where the cursor is of another stream."""
        step = cursor.get("step")
        if cursor.get("stream") != self.key or not isinstance(step, int) or not 0 <= step <= self.steps:
            raise RunError(
                f"the checkpoint of {self.name} was made on other data or in another order",
                hint="restart the phase, or restore the spec and the texts it was started with",
                consequence="some text would be read twice and some never",
            )
        return step

    def planned(self) -> tuple[SharePlan, ...]:
        """What the whole phase reads of each source of its mixture; exact."""
        from llmspec.compiler.plan import SharePlan

        plans = []
        for source, share in self.phase.mixture.items():
            if source not in self._layouts:
                plans.append(
                    SharePlan(
                        source=source,
                        share=share.fraction,
                        blocks=0,
                        tokens_read=0,
                        tokens_supervised=0,
                        documents_dropped=0,
                        documents_contaminated=0,
                        tokens_repeated=0,
                        epochs=0.0,
                    )
                )
                continue
            blocks, layout, counts = self._blocks[source], self._layouts[source], self.counts(source)
            plans.append(
                SharePlan(
                    source=source,
                    share=share.fraction,
                    blocks=blocks,
                    tokens_read=counts.tokens_read,
                    tokens_supervised=None if self.phase.objective.drawn else counts.tokens_supervised,
                    documents_dropped=sum(self.dropped[source].values()),
                    documents_contaminated=self.contaminated[source],
                    tokens_repeated=counts.tokens_repeated,
                    epochs=blocks / layout.blocks_per_epoch,
                )
            )
        return tuple(plans)

    def ledger(self) -> Ledger:
        """An empty ledger for this stream's batches."""
        return Ledger({source: sum(self.dropped[source].values()) for source in self.sources}, self.contaminated)

    def _check_length(self, data: Mapping[str, TokenSet]) -> None:
        problems = []
        for source, layout in self._layouts.items():
            # A dialogue may be short, as what follows it in its block is padding; text fills blocks to the end.
            packed = data[source].tokens_per_role is not None or self.asking is not None
            enough = layout.epoch_tokens > 0 if packed else layout.blocks_per_epoch >= 1
            if enough:
                continue
            lost = {**self.dropped[source], VALIDATED: self.contaminated[source]}
            why = Notes({reason: n for reason, n in lost.items() if n}, self._unread[source].examples).reasons()
            if packed:
                problems.append(self._nothing_learned(source, why))
                continue
            problems.append(
                Problem(
                    f"{source} has {layout.epoch_tokens} training tokens, and one block has "
                    f"{layout.tokens_per_block:.0f}" + (f" (left out: {why})" if why else ""),
                    ("phases", self.name, "mixture", source),
                    "give it more text, or lower model.context",
                    "no block could be filled",
                )
            )
        if problems:
            raise DataError(problems)

    def _check_company(self) -> None:
        """Raises DataError where texts are compared, and a pass holds hardly any to compare."""
        if not self.phase.apart:
            return
        counts = [self.counts(source) for source in self.sources]
        texts, blocks = sum(c.tokens_supervised for c in counts), sum(c.blocks for c in counts)
        if problems := [*lonely(self.phase.micro_batch_size, texts, blocks)]:
            raise DataError(problem.at("phases", self.name) for problem in problems)

    def _nothing_learned(self, source: str, why: str) -> Problem:
        roles = ", ".join(Turns.of(getattr(self.phase, "train_on", ())).roles)
        lost = self.dropped[source]
        first = max(lost, key=lambda reason: lost[reason]) if lost else ""
        helps = "" if first in (TOO_LONG, NOTHING_LEARNED) else advice(first, self.phase)
        if self.asking is not None or helps:
            limit = " or its `max_tokens:`" if getattr(self.phase, "max_tokens", None) else ""
            look = f"raise model.context above {self.context}{limit}"
            if first != TOO_LONG:
                look = f"look at its `{self.phase.reads or 'source'}:`{limit and ', raise max_tokens'}"
            return Problem(
                f"nothing of {source} can be trained on: of its documents, {why or 'there is none'}",
                ("phases", self.name, "mixture", source),
                f"{helps or look}, or take {source} out of the mixture",
                "its share of the training would be wasted",
            )
        return Problem(
            f"nothing of {source} can be trained on: of its dialogues, {why or 'there is none'}",
            ("phases", self.name, *(("max_tokens",) if self.phase.prompted else ("mixture", source))),
            f"raise model.context above {self.context}, "
            + ("lower `max_tokens:`" if self.phase.prompted else f"choose other roles than `train_on: [{roles}]`")
            + f", or take {source} out of the mixture",
            "its share of the training would be wasted",
        )

    def _order(self, seed: int) -> None:
        """Draw the order of all blocks: each source's epoch by epoch, and the sources evenly among each other."""
        sources, blocks, places = [], [], []
        for i, name in enumerate(self.sources):
            n = self._blocks[name]
            every = np.arange(n)
            served = np.lexsort((random_bits(n, seed, self.name, name, "order"), self._layouts[name].epochs(every)))
            sources.append(np.full(n, i, np.int32))
            blocks.append(served)
            jitter = (random_bits(n, seed, self.name, name, "jitter") >> np.uint64(11)) / 2.0**53
            places.append((every + jitter) / max(n, 1))
        order = np.argsort(np.concatenate(places), kind="stable")
        self._source = np.concatenate(sources)[order]
        self._block = np.concatenate(blocks)[order]


def layout_of(
    data: TokenSet,
    phase: Phase,
    context: int,
    end: int,
    names: tuple[object, ...] | None,
    pair: Pair | None = None,
    asking: AnyAsking | None = None,
    spans: SpanForm | None = None,
    around: Around | None = None,
) -> Layout:
    """The layout that suits the form of the tokens; `names` seed its order, None keeps the order of the documents."""
    if isinstance(asking, ComparedAsking):
        return ComparedLayout(data, asking, context, names)
    if asking is not None:
        if isinstance(asking, TagAsking):
            return TagLayout(data, asking, context, names)
        return DocumentLayout(data, asking, context, names)
    if spans is not None:
        return SpanLayout(data, context, end, spans, names)
    if around is not None:
        return FramedLayout(data, context, around, phase.document_mask, names)
    if pair is not None and data.tokens_per_role is None:
        return PrefixLayout(data, context, end, pair, names)
    if pair is not None:
        cut = getattr(phase, "truncation", "none")
        return AnswerLayout(data, getattr(phase, "train_on", ()), context, end, pair, names, cut)
    if data.tokens_per_role is None:
        plain = CutLayout if phase.cuts else PlainLayout
        return plain(data, context, end, phase.document_mask, names)
    if phase.prompted:
        return PromptLayout(data, phase, context, end, names)
    return DialogueLayout(data, getattr(phase, "train_on", ()), context, end, phase.document_mask, names)
