"""Blocks against a plain Python reading of the same rules: nothing lost, nothing twice, nothing learned by mistake."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.core.problems import DataError, RunError
from llmspec.core.units import Budget, Share
from llmspec.data.layout import Batch, PlainLayout, blank, shuffled
from llmspec.data.ledger import Ledger
from llmspec.data.packing import DialogueLayout
from llmspec.data.shaping import NOTHING_LEARNED, TOO_LONG
from llmspec.data.stream import PhaseStream
from llmspec.data.tokens import TokenSet, encode_dialogues, encode_texts
from llmspec.data.validation import ValidationSet
from llmspec.parts import phases
from llmspec.parts.templates import TABLE as TEMPLATES
from llmspec.parts.templates.base import Marker, Turn
from llmspec.parts.tokenizers import TABLE as TOKENIZERS
from llmspec.parts.tokenizers.special_tokens import EOS, ROLES, TURN_END
from llmspec.training.tasks.base import evenly

TEMPLATE = TEMPLATES["role_tokens"]()
CODEC = TOKENIZERS["byte"](markers=("<|m|>",)).train(())
END_ID, EOT_ID = CODEC.specials[EOS], CODEC.specials[TURN_END]
quick = settings(deadline=None, max_examples=60)

word = st.text("abcdefgh \n", min_size=1, max_size=12)
texts = st.lists(word, min_size=1, max_size=8)
turns = st.lists(st.builds(Turn, st.sampled_from(ROLES), st.tuples(word)), min_size=1, max_size=4)
dialogues = st.lists(turns, min_size=1, max_size=9)
roles = st.sets(st.sampled_from((*ROLES, "last_turn")), min_size=1).map(tuple)
contexts = st.sampled_from([1, 2, 7, 16])


def plain_set(documents: list[str]) -> TokenSet:
    return encode_texts(CODEC, [(text,) for text in documents])


def phase_of(kind: str, shares: dict[str, int], budget: str, **more: Any) -> Any:
    mixture = {name: Share(percent) for name, percent in shares.items()}
    return phases.TABLE[kind](mixture=mixture, budget=Budget.parse(budget), **more)


def stream_of(phase: Any, data: dict[str, TokenSet], context: int = 8, seed: int = 3, most: float = 1e9) -> PhaseStream:
    return PhaseStream("p", phase, data, max_epochs=dict.fromkeys(data, most), seed=seed, context=context, end=END_ID)


def read(layout: Any, context: int, blocks: list[int]) -> Batch:
    batch = blank(len(blocks), context, END_ID)
    layout.gather(batch, np.arange(len(blocks)), np.array(blocks))
    return batch


# -- plain text ------------------------------------------------------------------------------------------------------


def naive_stream(documents: list[str], names: tuple[object, ...], epochs: int) -> list[int]:
    out = []
    for epoch in range(epochs):
        for i in shuffled(len(documents), *names, "documents", epoch):
            out += [END_ID, *CODEC.encode([documents[i]])[0]]
    return [*out, END_ID]


@given(documents=texts, context=contexts, mask=st.booleans(), epochs=st.integers(1, 3), data=st.data())
@quick
def test_plain_blocks_are_the_naive_stream(
    documents: list[str], context: int, mask: bool, epochs: int, data: st.DataObject
) -> None:
    names = ("seed", "source")
    layout = PlainLayout(plain_set(documents), context, END_ID, mask, names)
    stream = naive_stream(documents, names, epochs)
    count = (len(stream) - 1) // context
    blocks = data.draw(st.permutations(range(count)))
    batch = read(layout, context, blocks)
    for row, block in enumerate(blocks):
        inputs = stream[block * context : (block + 1) * context]
        assert batch.tokens[row].tolist() == inputs
        assert batch.targets[row].tolist() == stream[block * context + 1 : (block + 1) * context + 1]
        document = place = 0
        for column, token in enumerate(inputs):
            if column and token == END_ID:
                document, place = document + 1, 0
            expected = (document, place) if mask else (0, column)
            assert (batch.documents[row, column], batch.positions[row, column]) == expected
            place += 1
    assert (batch.weights == 1).all() and (batch.filled == context).all()


@given(documents=texts, context=contexts)
@quick
def test_every_target_of_an_epoch_counts_once(documents: list[str], context: int) -> None:
    layout = PlainLayout(plain_set(documents), context, END_ID, False, ("s",))
    # `context` epochs are a whole number of blocks.
    batch = read(layout, context, list(range(layout.epoch_tokens)))
    expected = sorted([id_ for text in documents for id_ in (*CODEC.encode([text])[0], END_ID)] * context)
    assert sorted(batch.targets[batch.weights == 1].tolist()) == expected
    assert sorted(batch.tokens.reshape(-1).tolist()) == expected
    repeated = (context - 1) * layout.epoch_tokens
    assert int(batch.repeated.sum()) == layout.counts(layout.epoch_tokens).tokens_repeated == repeated


@given(n=st.integers(0, 50), a=st.integers(0, 5), b=st.integers(0, 5))
@quick
def test_a_shuffle_is_a_permutation_that_hangs_on_its_names_alone(n: int, a: int, b: int) -> None:
    assert sorted(shuffled(n, a).tolist()) == list(range(n))
    assert (shuffled(n, a).tolist() == shuffled(n, b).tolist()) or a != b
    assert n < 30 or a == b or shuffled(n, a).tolist() != shuffled(n, b).tolist()


# -- dialogues -------------------------------------------------------------------------------------------------------


def naive_dialogue(turns: list[Turn], learn: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Tokens, and for each whether it counts as a target."""
    tokens, learned = [END_ID], [0]
    counted = taught(turns, learn)
    for i, turn in enumerate(turns):
        said = CODEC.encode(["".join(turn.content)])[0]
        tokens += [CODEC.specials[f"<|{turn.role}|>"], *said, EOT_ID]
        learned += [0, *[int(i in counted)] * (len(said) + 1)]
    return tokens, learned


def taught(turns: list[Turn], learn: tuple[str, ...]) -> list[int]:
    """Numbers of the turns that count, said anew: those of some roles, or the last one of these."""
    who = [role for role in learn if role != "last_turn"] or ["assistant"]
    found = [i for i, turn in enumerate(turns) if turn.role in who]
    return found[-1:] if "last_turn" in learn else found


def rows_to_dialogues(batch: Batch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """What each row holds, cut where its document numbers change, padding left out: (tokens, weights of targets)."""
    found = []
    for row in range(len(batch.tokens)):
        filled = int(batch.filled[row])
        numbers = batch.documents[row, :filled].tolist()
        for n in sorted(set(numbers)):
            at = [i for i, number in enumerate(numbers) if number == n]
            assert at == list(range(at[0], at[-1] + 1)) and n == numbers[at[0]]
            assert batch.positions[row, at].tolist() == list(range(len(at)))
            inputs, targets = batch.tokens[row, at].tolist(), batch.targets[row, at].tolist()
            assert inputs[1:] == targets[:-1]
            found.append(((*inputs, targets[-1]), tuple(batch.weights[row, at].astype(int).tolist())))
        assert (batch.weights[row, filled:] == 0).all() and (batch.tokens[row, filled:] == END_ID).all()
        assert filled == batch.tokens.shape[1] or batch.documents[row, filled:].min() > max(numbers, default=-1)
    return found


@given(spoken=dialogues, learn=roles, context=st.sampled_from([4, 12, 24, 64]))
@quick
def test_dialogues_are_whole_and_only_learned_turns_count(
    spoken: list[list[Turn]], learn: tuple[str, ...], context: int
) -> None:
    layout = DialogueLayout(encode_dialogues(CODEC, TEMPLATE, spoken), learn, context, END_ID, True, ("s",))
    expected, long, nothing = [], 0, 0
    for turns in spoken:
        tokens, learned = naive_dialogue(turns, learn)
        if len(tokens) - 1 > context:
            long += 1
        elif not any(learned):
            nothing += 1
        else:
            expected.append((tuple(tokens), tuple(learned[1:])))
    assert layout.dropped == {TOO_LONG: long, NOTHING_LEARNED: nothing}
    blocks = int(layout.blocks_per_epoch)
    if not expected:
        assert blocks == 0
        return
    for epoch in range(2):
        batch = read(layout, context, list(range(epoch * blocks, (epoch + 1) * blocks)))
        assert sorted(rows_to_dialogues(batch)) == sorted(expected)
        assert batch.repeated.tolist() == (batch.filled if epoch else 0 * batch.filled).tolist()


@given(spoken=dialogues, learn=roles)
@quick
def test_without_a_document_mask_only_numbers_and_places_differ(
    spoken: list[list[Turn]], learn: tuple[str, ...]
) -> None:
    data = encode_dialogues(
        CODEC, TEMPLATE, [*spoken, [Turn(role, ("hi",)) for role in {*learn, "assistant"} - {"last_turn"}]]
    )
    masked = DialogueLayout(data, learn, 64, END_ID, True, ("s",))
    plain = DialogueLayout(data, learn, 64, END_ID, False, ("s",))
    a, b = (read(layout, 64, list(range(int(masked.blocks_per_epoch)))) for layout in (masked, plain))
    for name in ("tokens", "targets", "weights", "filled", "repeated"):
        assert (getattr(a, name) == getattr(b, name)).all()
    assert (b.documents == 0).all() and (b.positions == np.arange(64)).all()


@given(spoken=st.lists(turns, min_size=1, max_size=30), context=st.sampled_from([32, 64]))
@quick
def test_packing_leaves_no_two_blocks_that_fit_into_one(spoken: list[list[Turn]], context: int) -> None:
    data = encode_dialogues(CODEC, TEMPLATE, [*spoken, [Turn("user", ("hi",))]])
    layout = DialogueLayout(data, ROLES, context, END_ID, True, ("s",))
    filled = sorted(read(layout, context, list(range(int(layout.blocks_per_epoch)))).filled.tolist())
    assert len(filled) < 2 or filled[0] + filled[1] > context


def test_markers_of_templates_are_ids_and_spell_no_characters() -> None:
    data = encode_texts(CODEC, [(Marker("<|m|>"), "ab <|m|>"), ("c",)])
    marker = CODEC.specials["<|m|>"]
    assert data.tokens[: data.offsets[1]].tolist() == [marker, *CODEC.encode(["ab <|m|>"])[0]]
    assert data.characters.tolist() == [[8], [1]]
    assert data.tokens.tolist().count(marker) == 1


# -- streams ---------------------------------------------------------------------------------------------------------


@given(
    a=texts,
    b=texts,
    spoken=dialogues,
    share=st.integers(1, 98),
    steps=st.integers(1, 12),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    learn=roles,
    seed=st.integers(0, 9),
    data=st.data(),
)
@quick
def test_streams_are_functions_of_the_step_and_end_as_planned(
    a: list[str],
    b: list[str],
    spoken: list[list[Turn]],
    share: int,
    steps: int,
    batch: int,
    accumulation: int,
    learn: tuple[str, ...],
    seed: int,
    data: st.DataObject,
) -> None:
    spoken = [*spoken, [Turn(role, ("hi",)) for role in {*learn, "assistant"} - {"last_turn"}]]
    sets = {
        "a": plain_set([*a, "c" * 32]),
        "b": plain_set([*b, "d" * 40]),
        "talk": encode_dialogues(CODEC, TEMPLATE, spoken),
    }
    phase = phase_of(
        "sft",
        {"talk": share, "b": 99 - share, "a": 1},
        f"{steps} steps",
        micro_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        train_on=learn,
    )
    stream = stream_of(phase, sets, 32, seed)
    assert stream.steps == steps
    cells = [(step, micro) for step in range(steps) for micro in range(accumulation)]
    first = {cell: stream.batch(*cell) for cell in cells}
    again = stream_of(phase, sets, 32, seed)
    for cell in data.draw(st.permutations(cells)):
        for x, y in zip(first[cell][:8], again.batch(*cell)[:8], strict=True):
            assert x.dtype == y.dtype and (x == y).all()
    ledger, stopped = stream.ledger(), data.draw(st.integers(0, len(cells)))
    for i, cell in enumerate(cells):
        if i == stopped:
            ledger = Ledger.load(ledger.dump())
        ledger.add(first[cell])
    planned = stream.planned()
    assert ledger.differences(planned) == []
    assert sum(part.blocks or 0 for part in planned) == steps * batch * accumulation
    ledger.add(first[cells[0]])
    assert ledger.differences(planned) != []


def test_the_order_of_reading_shows_in_the_ledger_and_hangs_on_the_seed() -> None:
    sets = {"a": plain_set(["abcdefgh" * 20, "hgfedcba" * 20])}
    phase = phase_of("pretrain", {"a": 100}, "8 steps", micro_batch_size=2)
    orders = []
    for seed, steps in ((1, range(8)), (1, range(8)), (2, range(8)), (1, reversed(range(8)))):
        stream = stream_of(phase, sets, seed=seed)
        ledger = stream.ledger()
        for step in steps:
            ledger.add(stream.batch(step))
        orders.append(ledger.order)
    assert orders[0] == orders[1] and len({*orders}) == 3


def test_shares_hold_in_every_stretch_and_epochs_come_in_order() -> None:
    sets = {"a": plain_set(["x" * 700]), "b": plain_set(["y" * 400])}
    stream = stream_of(phase_of("pretrain", {"a": 75, "b": 25}, "100 steps", micro_batch_size=4), sets)
    rows = np.concatenate([stream.batch(step).source for step in range(100)])
    for end in range(4, 401, 4):
        assert abs((rows[:end] == 0).sum() - 0.75 * end) <= 2
    repeated = np.concatenate([stream.batch(step).repeated[stream.batch(step).source == 0] for step in range(100)])
    # The block on the border of two epochs is repeated in part, and read with the first.
    assert (np.diff((repeated == 8).astype(int)) >= 0).all() and repeated.max() == 8


def test_cursors_go_on_only_in_their_own_stream() -> None:
    sets = {"a": plain_set(["abcdefgh" * 20])}
    stream = stream_of(phase_of("pretrain", {"a": 100}, "8 steps", micro_batch_size=2), sets)
    assert stream.check_cursor(stream.cursor(5)) == 5
    for other in (
        stream_of(phase_of("pretrain", {"a": 100}, "9 steps", micro_batch_size=2), sets),
        stream_of(phase_of("pretrain", {"a": 100}, "8 steps", micro_batch_size=2), sets, seed=4),
    ):
        with pytest.raises(RunError, match="other data or in another order"):
            other.check_cursor(stream.cursor(5))
    for step, micro in ((8, 0), (-1, 0), (0, 1)):
        with pytest.raises(IndexError):
            stream.batch(step, micro)


def test_a_source_shorter_than_a_block_or_read_too_often_is_named() -> None:
    sets = {
        "a": plain_set(["abc"]),
        "b": plain_set(["abcdefgh" * 20]),
        "talk": encode_dialogues(CODEC, TEMPLATE, [[Turn("assistant", ("much too long to fit",))]]),
    }
    with pytest.raises(DataError) as caught:
        stream_of(phase_of("sft", {"a": 40, "b": 20, "talk": 40}, "8 steps"), sets)
    said = str(caught.value)
    assert "phases.p.mixture.a: a has 4 training tokens, and one block has 8" in said
    assert "1 too long" in said and "mixture.b" not in said
    with pytest.raises(DataError, match=r"reads b 79\.5 times, and its max_epochs is 4"):
        stream_of(phase_of("pretrain", {"b": 100}, "100 steps"), sets, most=4)


# -- validation ------------------------------------------------------------------------------------------------------


@given(documents=texts, context=contexts, rows=st.integers(1, 4), mask=st.booleans())
@quick
def test_every_validation_token_counts_once(documents: list[str], context: int, rows: int, mask: bool) -> None:
    phase = phase_of("pretrain", {"a": 100}, "1 steps", micro_batch_size=rows, document_mask=mask)
    found = ValidationSet("a", phase, plain_set(documents), context, END_ID)
    stream = [END_ID]
    for text in documents:
        stream += [*CODEC.encode([text])[0], END_ID]
    batches = list(found)
    assert len(batches) == len(found)
    counted = np.concatenate([batch.targets[batch.weights == 1] for batch in batches])
    inputs = np.concatenate([batch.tokens[batch.weights == 1] for batch in batches])
    assert counted.tolist() == stream[1:] and inputs.tolist() == stream[:-1]
    assert (found.tokens, found.characters) == (len(stream) - 1, sum(map(len, documents)))
    for batch in batches:
        assert batch.tokens.shape == (rows, context)
        assert (batch.weights.sum(axis=1) == batch.filled).all()
        if mask:
            padding = batch.weights == 0
            shared = [{*batch.documents[r][padding[r]]} & {*batch.documents[r][~padding[r]]} for r in range(rows)]
            assert not any(shared)


@given(spoken=dialogues, learn=roles)
@quick
def test_validation_dialogues_count_their_learned_turns_once(spoken: list[list[Turn]], learn: tuple[str, ...]) -> None:
    phase = phase_of("sft", {"a": 100}, "1 steps", micro_batch_size=2, train_on=learn)
    found = ValidationSet("a", phase, encode_dialogues(CODEC, TEMPLATE, spoken), 48, END_ID, codec=CODEC)
    kept = [turns for turns in spoken if len(naive_dialogue(turns, learn)[0]) <= 49 and taught(turns, learn)]
    counted = [t for batch in found for t in batch.targets[batch.weights == 1].tolist()]
    expected = [t for turns in kept for t, w in zip(*naive_dialogue(turns, learn), strict=True) if w]
    assert sorted(counted) == sorted(expected) and found.tokens == len(expected)
    said = [turns[i] for turns in kept for i in taught(turns, learn)]
    assert found.characters == sum(len("".join(turn.content)) for turn in said)


def test_positions_and_shapes_are_what_a_graph_expects() -> None:
    stream = stream_of(
        phase_of("pretrain", {"a": 100}, "2 steps", micro_batch_size=3), {"a": plain_set(["abcdefgh" * 20])}
    )
    batch = stream.batch(0)
    kinds = {name: (array.shape, array.dtype.name) for name, array in batch._asdict().items() if array is not None}
    assert kinds == {
        **dict.fromkeys(("tokens", "targets", "documents", "positions"), ((3, 8), "int32")),
        "weights": ((3, 8), "float32"),
        **dict.fromkeys(("source", "filled", "repeated"), ((3,), "int32")),
    }
    assert SimpleNamespace(**batch._asdict()).tokens.flags["C_CONTIGUOUS"]


@given(st.integers(0, 300), st.integers(0, 300))
def test_some_of_many_are_spread_evenly(there: int, most: int) -> None:
    """Of a sorted file, no end is left out, and gaps differ by one at most."""
    found = evenly(there, most)
    assert len(found) == len(set(found)) == min(there, most) and sorted(found) == found
    gaps = np.diff([*found, there]) if found else np.zeros(0)
    assert not found or (found[0] == 0 and gaps.max() - gaps.min() <= 1)
