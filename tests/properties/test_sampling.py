"""Draws, seeds, prompts and the loop of generation, against decoders without weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies_decoding import HashDecoder, ScriptDecoder, ToyCodec, decodings, logits

from llmspec.core.problems import LlmspecError
from llmspec.decoding import Event, chat_prompt, generate, stream, text_prompt
from llmspec.decoding.batch import ROWS
from llmspec.decoding.chain import entropy_bits, log_softmax, probabilities
from llmspec.decoding.sampler import Uniforms, choose, draw, number_of, uniform, weigh
from llmspec.parts import templates
from llmspec.parts.filters import Context
from llmspec.parts.tokenizers.special_tokens import EOS, ROLES, TURN_END
from llmspec.spec.decoding import Decoding

pytestmark = pytest.mark.filterwarnings("error")
TEMPLATE = templates.TABLE["role_tokens"]()
CODEC = ToyCodec(markers=["<|sum|>", "<|sum|>>"])
PROMPT = text_prompt(CODEC, "ab")
NOTHING = Context(np.array([], dtype=np.int64), np.array([], dtype=np.int64))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


def chi_square_limit(freedom: int) -> float:
    """Where 1 of 10,000 draws would be called wrong (Wilson & Hilferty 1931)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3


# Draws


@given(logits(), st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53))
def test_a_draw_falls_where_the_number_lies(values: np.ndarray, number: float) -> None:
    p = probabilities(values)
    assume(p.sum() > 0)
    token = draw(p, number)
    assert p[token] > 0
    assert p[:token].sum() <= number + 1e-12 and number <= p[: token + 1].sum() + 1e-12


def test_a_draw_from_nothing_is_refused() -> None:
    for p in (np.zeros(3), np.zeros(0)):
        with pytest.raises(ValueError, match="no token left"):
            draw(p, 0.5)


@pytest.mark.parametrize("axis", ["seed", "sample", "position", "prompt"])
def test_draws_match_probabilities(axis: str) -> None:
    p, count = np.array([0.5, 0.25, 0.15, 0.0, 0.07, 0.03]), 20_000
    place = {"seed": 7, "sample": 3, "position": 5}
    tokens = [draw(p, uniform(**{**place, axis: i})) for i in range(count)]
    counts = np.bincount(tokens, minlength=6)
    assert counts[3] == 0
    assert chi_square(counts[p > 0], count * p[p > 0]) < chi_square_limit(4)


@pytest.mark.parametrize("axis", ["seed", "sample", "position", "prompt"])
def test_neighbouring_draws_know_nothing_of_each_other(axis: str) -> None:
    place = {"seed": 0, "sample": 0, "position": 0}
    numbers = np.array([uniform(**{**place, axis: i}) for i in range(16_001)])
    cells = (numbers * 4).astype(int)
    pairs = np.bincount(4 * cells[:-1] + cells[1:], minlength=16)
    assert chi_square(pairs, np.full(16, 1000.0)) < chi_square_limit(15)


@pytest.mark.parametrize("n", [1, 3])
def test_answers_to_different_prompts_are_independent(n: int) -> None:
    """However many prompts share a seed: what a flat model says to them falls as so many dice."""
    faces, prompts = 8, [[i // 8, i % 8] for i in range(60)]
    how = Decoding(temperature=1, top_p=1, frequency_penalty=0, max_tokens=1)
    for seed in range(5):
        drawn = [
            answer.tokens[0] for answer in generate(HashDecoder(faces, spread=0), CODEC, prompts, how, n=n, seed=seed)
        ]
        counts = np.bincount(drawn, minlength=faces)
        assert chi_square(counts, np.full(faces, len(drawn) / faces)) < chi_square_limit(faces - 1)


@given(logits(cut=False), st.floats(0, 1, exclude_max=True), decodings())
def test_a_choice_reports_the_models_own_numbers(values: np.ndarray, number: float, decoding: Decoding) -> None:
    choice = choose(values, NOTHING, decoding.chain(), number)
    assert choice.logprob == log_softmax(values)[choice.token]
    assert choice.entropy == pytest.approx(float(entropy_bits(probabilities(values))), abs=1e-9)
    assert 0 < choice.probability <= 1 + 1e-12


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_logits_that_are_not_numbers_are_named(bad: list[float]) -> None:
    with pytest.raises(LlmspecError, match="not finite"):
        choose(np.array(bad), NOTHING, (), 0.5)


# Generation


@given(decodings(), st.integers(0, 2**70), st.booleans())
@settings(max_examples=40)
def test_same_seed_same_text_in_any_batch(decoding: Decoding, seed: int, chat: bool) -> None:
    decoding = decoding.updated(max_tokens=8)
    other = text_prompt(CODEC, "other")

    def say(prompts: list[list[int]], n: int) -> list[tuple[object, ...]]:
        answers = generate(HashDecoder(CODEC.vocab), CODEC, prompts, decoding, n=n, seed=seed, chat=chat)
        assert [(a.prompt, a.sample) for a in answers] == [(p, s) for p in range(len(prompts)) for s in range(n)]
        return [(a.text, a.choices, a.finish_reason) for a in answers]

    alone, four = say([PROMPT], 1), say([PROMPT], 4)
    assert alone[0] == four[0]
    assert say([other, PROMPT], 4)[4:] == four
    assert say([PROMPT], 4) == four


@given(st.integers(0, 2**63 - 1))
@settings(max_examples=20)
def test_the_seed_may_stand_in_the_section(seed: int) -> None:
    one = generate(HashDecoder(CODEC.vocab), CODEC, [PROMPT], Decoding(max_tokens=4, seed=seed))
    two = generate(HashDecoder(CODEC.vocab), CODEC, [PROMPT], Decoding(max_tokens=4), seed=seed)
    assert one == two


def test_samples_and_seeds_differ() -> None:
    answers = generate(HashDecoder(CODEC.vocab), CODEC, [PROMPT], Decoding(max_tokens=8), n=4, seed=0)
    answers += generate(HashDecoder(CODEC.vocab), CODEC, [PROMPT], Decoding(max_tokens=8), n=4, seed=1)
    assert len({tuple(a.tokens) for a in answers}) == 8


def test_greedy_is_the_loop_of_argmax() -> None:
    decoder, tokens = HashDecoder(CODEC.vocab), list(PROMPT)
    while len(tokens) < len(PROMPT) + 12:
        tokens.append(int(np.argmax(decoder.logits_of(tokens))))
        if tokens[-1] == CODEC.specials[EOS]:
            break
    for seed in (0, 1):
        (answer,) = generate(decoder, CODEC, [PROMPT], Decoding(temperature=0, max_tokens=12), seed=seed)
        assert answer.tokens == tokens[len(PROMPT) :]
        assert all(choice.probability == 1 for choice in answer.choices)


@given(decodings(), st.integers(0, 99))
@settings(max_examples=40)
def test_filters_see_the_prompt_and_exactly_what_was_drawn(decoding: Decoding, seed: int) -> None:
    decoding = decoding.updated(max_tokens=10, stop=(), frequency_penalty=3.0, order=None)
    vocab = 10  # special tokens and a few bytes, so that tokens are drawn again and again
    decoder = HashDecoder(vocab, spread=1.0)
    (answer,) = generate(decoder, CODEC, [[0, 8, 8]], decoding, seed=seed)
    drawn: list[int] = []
    for position, choice in enumerate(answer.choices):
        context = Context(np.array([0, 8, 8]), np.array(drawn, dtype=np.int64))
        values = decoder.logits_of([0, 8, 8, *drawn]).astype(np.float64)
        assert choice == choose(values, context, decoding.chain(), uniform(seed, 0, position, number_of([0, 8, 8])))
        drawn.append(choice.token)


@given(decodings(), st.booleans(), st.integers(1, 3))
@settings(max_examples=40)
def test_events_add_up_to_the_answer(decoding: Decoding, chat: bool, n: int) -> None:
    events: list[Event] = []
    decoder = HashDecoder(CODEC.vocab, context=20)
    answers = generate(decoder, CODEC, [PROMPT], decoding, n=n, chat=chat, on_token=events.append)
    assert events == list(stream(HashDecoder(CODEC.vocab, context=20), CODEC, [PROMPT], decoding, n=n, chat=chat))
    for row, answer in enumerate(answers):
        mine = [e for e in events if e.row == row]
        assert [e.finish_reason for e in mine] == [None] * (len(mine) - 1) + [answer.finish_reason]
        assert "".join(e.text for e in mine) == answer.text
        whole = CODEC.decode(answer.tokens)
        assert whole.startswith(answer.text) and (answer.finish_reason == "stop" or answer.text == whole)
        assert len(answer.tokens) <= min(decoding.max_tokens, 20 - len(PROMPT))
        read = list(PROMPT)
        for choice in answer.choices:
            assert choice.logprob == log_softmax(decoder.logits_of(read))[choice.token]
            read.append(choice.token)


def ids(*parts: str) -> list[int]:
    return [i for p in parts for i in ([CODEC.specials[p]] if p in CODEC.specials else CODEC.encode([p])[0])]


@pytest.mark.parametrize(
    ("said", "chat", "keys", "text", "reason"),
    [
        (ids("xy", EOS), False, {}, "xy", "end"),
        (ids("xy", EOS), True, {}, "xy", "end"),
        (ids("xy", TURN_END), True, {}, "xy", "stop"),
        (ids("xy", "<|user|>"), True, {}, "xy", "stop"),
        (ids("x", TURN_END, "y", "<|user|>", EOS), False, {}, "xy", "end"),
        (ids("x", "<|user|>", "y"), False, {"stop": ("<|user|>",)}, "x", "stop"),
        (ids("x", EOS), False, {"stop": (EOS,)}, "x", "end"),
        (ids("xyz"), False, {"stop": ("yz",)}, "x", "stop"),
        (ids("xyz"), False, {"stop": ("yz",), "max_tokens": 2}, "xy", "max_tokens"),
        (ids("xyz"), False, {"stop": ("yz",), "max_tokens": 3}, "x", "stop"),
        (ids("xyé")[:3], False, {"max_tokens": 3}, "xy\ufffd", "max_tokens"),
        (ids("x"), False, {}, "x" * 7, "length"),
        (ids("x"), False, {"max_tokens": 7}, "x" * 7, "max_tokens"),
    ],
)
def test_finish_reasons(said: list[int], chat: bool, keys: dict[str, object], text: str, reason: str) -> None:
    decoding = Decoding(temperature=0).updated(**keys)
    decoder = ScriptDecoder(CODEC.vocab, [said], context=len(PROMPT) + 7)
    (answer,) = generate(decoder, CODEC, [PROMPT], decoding, chat=chat)
    assert (answer.text, answer.finish_reason) == (text, reason)


def test_rows_that_have_ended_read_nothing_more() -> None:
    decoder = ScriptDecoder(CODEC.vocab, [ids("x", EOS), ids("xyz", EOS)])
    answers = generate(decoder, CODEC, [PROMPT], Decoding(temperature=0), n=2)
    assert [a.text for a in answers] == ["x", "xyz"]
    assert decoder.fed == [[*ids("x"), *ids("x")], ids("y"), ids("z")]


texts = st.lists(st.integers(0, CODEC.vocab - 1), min_size=1, max_size=20)


@given(st.lists(texts, min_size=1, max_size=40), st.integers(1, 3), st.integers(1, 5), decodings(), st.integers(0, 99))
@settings(max_examples=40)
def test_many_prompts_in_few_rows_are_answered_as_each_alone(
    prompts: list[list[int]], n: int, most: int, decoding: Decoding, seed: int
) -> None:
    decoding, told = decoding.updated(max_tokens=6), list[str]()
    decoder = HashDecoder(CODEC.vocab, context=24, most=most)
    answers = generate(decoder, CODEC, prompts, decoding, n=n, seed=seed, notice=told.append)
    assert [(a.prompt, a.sample) for a in answers] == [(p, s) for p in range(len(prompts)) for s in range(n)]
    for prompt, first in zip(prompts, answers[::n], strict=True):
        (alone,) = generate(HashDecoder(CODEC.vocab, context=24), CODEC, [prompt], decoding, seed=seed)
        assert (alone.choices, alone.text, alone.finish_reason) == (first.choices, first.text, first.finish_reason)
    assert sorted(decoder.prompts) == sorted(prompts), "a prompt is read once, however many answers are drawn"
    assert bool(told) == (most < min(ROWS, len(answers)))


@given(
    st.lists(texts, min_size=2, max_size=20),
    st.lists(st.integers(0, 5), min_size=3),
    st.integers(1, 2),
    st.integers(0, 9),
)
@settings(max_examples=40)
def test_a_beginning_that_prompts_share_is_read_once(
    ends: list[list[int]], beginning: list[int], n: int, seed: int
) -> None:
    beginning, decoding = beginning[:9], Decoding(max_tokens=3)
    prompts = [beginning + end for end in ends]
    decoder = HashDecoder(CODEC.vocab, context=40, most=4, least=3)
    answers = generate(decoder, CODEC, prompts, decoding, n=n, seed=seed)
    every = generate(HashDecoder(CODEC.vocab, context=40, most=4), CODEC, prompts, decoding, n=n, seed=seed)
    assert answers == every
    assert decoder.read <= len(beginning) + sum(map(len, ends))


def test_an_answer_that_has_ended_makes_room_for_the_next() -> None:
    decoder = ScriptDecoder(CODEC.vocab, [ids("x", EOS), ids("xyzxyzxyz", EOS)])
    decoder.most = 2
    generate(decoder, CODEC, [PROMPT] * 3, Decoding(temperature=0, max_tokens=9))
    assert [len(tokens) for tokens in decoder.fed] == [2, 1, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("length", [0, 16, 17, 40])
def test_a_prompt_without_room_is_refused(length: int) -> None:
    with pytest.raises(LlmspecError) as caught:
        generate(HashDecoder(CODEC.vocab, context=16), CODEC, [[0] * length], Decoding())
    (problem,) = caught.value.problems
    assert problem.hint and (length == 0 or (str(length) in problem.message and "16" in problem.message))
    with pytest.raises(LlmspecError, match="prompt 2"):
        generate(HashDecoder(CODEC.vocab, context=16), CODEC, [PROMPT, [0] * length], Decoding())


def test_tracing_shows_every_filter() -> None:
    decoding = Decoding(temperature=0.7, top_k=5, top_p=0.9)
    for event in stream(HashDecoder(CODEC.vocab), CODEC, [PROMPT], decoding, tracing=True):
        assert [s.filter for s in event.steps] == ["temperature", "top_k", "top_p"]
        assert event.steps[-1].after[event.token] == pytest.approx(event.choice.probability, rel=1e-12)
        assert np.log(event.steps[0].before[event.token]) == pytest.approx(event.choice.logprob, abs=1e-9)


# Prompts


def test_chat_prompt_is_the_template() -> None:
    turns = [("system", "s"), ("user", "u"), ("assistant", ""), ("user", "w")]
    parts = [x for role, text in turns for x in (f"<|{role}|>", text, TURN_END)]
    assert chat_prompt(CODEC, TEMPLATE, turns) == ids(EOS, *parts, "<|assistant|>")
    with pytest.raises(LlmspecError, match="did you mean `user`"):
        chat_prompt(CODEC, TEMPLATE, [("users", "u")])


@given(st.lists(st.sampled_from([*CODEC.specials, "<|", "|>", "ab", "é"]), max_size=8).map("".join))
def test_text_never_becomes_a_special_token_but_for_the_markers(text: str) -> None:
    special = set(CODEC.specials.values())
    plain = text_prompt(CODEC, text)
    assert plain[0] == CODEC.specials[EOS] and not special & set(plain[1:])
    assert CODEC.decode(plain) == text
    # Fixed special tokens are no markers, even where they are passed as such.
    marked = text_prompt(CODEC, text, [*CODEC.specials, "<|unknown|>"])
    names = {i: name for name, i in CODEC.specials.items()}
    assert not {CODEC.specials[f"<|{role}|>"] for role in ROLES} & set(marked)
    assert {names[i] for i in marked[1:] if i in names} <= {"<|sum|>", "<|sum|>>"}
    spelled = b"".join(names[i].encode() if i in names else CODEC.token_bytes(i) for i in marked[1:])
    assert spelled.decode() == text
    assert ("<|sum|>" in text) == any(i in names for i in marked[1:])


def test_the_longer_marker_wins() -> None:
    assert text_prompt(CODEC, "a<|sum|>>b", ["<|sum|>", "<|sum|>>"]) == ids(EOS, "a", "<|sum|>>", "b")


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**40),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=9),
)
def test_numbers_belong_to_their_positions_in_whatever_order_they_are_asked_for(
    seed: int, sample: int, prompt: int, positions: list[int]
) -> None:
    numbers = Uniforms(seed, sample, prompt)
    for position in [*positions, 0, 1, 2, 1]:
        key = np.array([seed, sample], np.uint64)
        counter = np.array([0, position, prompt, 0], np.uint64)
        assert numbers(position) == np.random.Generator(np.random.Philox(key=key, counter=counter)).random()


@pytest.mark.parametrize("vocab", [1, 7, 256, 4099, 50_000])
def test_rows_are_weighed_together_as_alone(vocab: int) -> None:
    """Bit for bit: an answer's text is to be the same in any company."""
    rows = np.random.default_rng(vocab).normal(0, 4, (9, vocab))
    rows[2, : vocab // 2], rows[3, 0] = -np.inf, 700.0
    for row, together in zip(rows, weigh(rows), strict=True):
        (alone,) = weigh(row[None])
        assert together.shifted.tobytes() == alone.shifted.tobytes()
        assert together.weights.tobytes() == alone.weights.tobytes()
        assert (together.total, together.entropy) == (alone.total, alone.entropy)
