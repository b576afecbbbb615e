"""Drawn calls of every C function beside attention, with their exact results and the errors that rounding allows.

The bounds hold for any order of summation: c·eps·K·(|A|·|B|) for a sum of K products (Higham 2002, section 3.5).
Sizes lie at and around the borders of tiles, panels and chunks. N rows, I inputs, O outputs, D width, V
vocabulary.
"""

from __future__ import annotations

import itertools

import numpy as np
import reference
from kernels import EPS, Array, Case, Output, Pick, numbers

TINY = 1e-36
"""What may go under: numbers below the smallest normal ones are not counted."""
NEGLIGIBLE = 104.0
"""Below -104, e^x is nothing in float32: how far a rounded difference can still matter."""
SEEDS = range(1000)
ROWS = (1, 2, 4, 5, 13, 14, 15, 31, 33, 65, 113, 225)
COLUMNS = (1, 2, 15, 16, 17, 31, 32, 33, 65, 200, 639, 640, 641, 700)
INNER = (1, 2, 7, 16, 17, 63, 65, 383, 384, 385, 769)
COUNTS = (1, 2, 7, 31, 32, 33, 65, 100)
WIDTHS = (1, 2, 15, 16, 17, 63, 64, 65, 200)
SPREADS = (0.01, 1.0, 10.0, 1e4)


def product_of(a: Array, b: Array, extra: Array | float = 0.0) -> Output:
    """a @ b in float64, with room for any order of its sums; `extra` is added once."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return Output(a @ b + extra, 4 * EPS * (a.shape[-1] + 2) * (np.abs(a) @ np.abs(b) + np.abs(extra)))


def products(pick: Pick) -> list[Case]:
    """A stack of products with every combination of strides."""
    seed, z = pick(SEEDS), pick((1, 1, 3))
    m, n, k, swap_a, swap_b = pick(ROWS), pick(COLUMNS), pick(INNER), pick((0, 1)), pick((0, 1))
    a, b = numbers(seed, z, m, k), numbers(seed + 1, z, k, n)
    stored = [np.ascontiguousarray(x.swapaxes(1, 2)) if swap else x for x, swap in ((a, swap_a), (b, swap_b))]
    return [Case("matmul", [product_of(a, b)], stored, [z, m, n, k, swap_a, swap_b])]


def linears(pick: Pick) -> list[Case]:
    """One to three layers side by side, and their gradients."""
    seed, n, i, biased = pick(SEEDS), pick(ROWS), pick(INNER), pick((0, 1))
    wide = [pick(WIDTHS) if j < pick((1, 2, 3)) or not j else 0 for j in range(3)]
    x, g = numbers(seed, n, i), numbers(seed + 1, n, sum(wide))
    w = [numbers(seed + 2 + j, o, i) for j, o in enumerate(wide) if o]
    bias = [numbers(seed + 5 + j, o) for j, o in enumerate(wide) if o]
    three = lambda values: [values[sum(map(bool, wide[:j]))] if o else values[0] for j, o in enumerate(wide)]
    whole, more = np.concatenate(w), np.concatenate(bias).astype(np.float64) if biased else 0.0
    forward = Case("linear", [product_of(x, whole.T, more)], [x, *three(w), *three(bias)], [n, i, *wide, biased])
    sequences = pick([s for s in (n, 5, 2, 1) if n % s == 0])
    numbers_ = [sequences, n // sequences, i, *wide, biased]
    apart = Case("linear_by_sequence", [product_of(x, whole.T, more)], [x, *three(w), *three(bias)], numbers_)
    ends = np.cumsum([0, *wide])
    to_w = [product_of(g[:, a:b].T, x) if b > a else Output(None) for a, b in itertools.pairwise(ends)]
    to_b = product_of(np.ones((1, n)), g) if biased else Output(None)
    to_b = Output(to_b.exact[0], to_b.room[0]) if to_b.exact is not None else to_b
    back = Case("linear_backward", [product_of(g, whole), *to_w, to_b], [g, x, *three(w)], [n, i, *wide, biased])
    return [forward, apart, back]


def losses(pick: Pick) -> list[Case]:
    """Head and loss, with logits of any size; with a width of 1 the logits are exactly those that are drawn. A softcap
    bounds them, or does not (0)."""
    seed, n, v, smoothing = pick(SEEDS), pick(ROWS), pick((1, 2, 15, 17, 40, 200)), pick((0.0, 0.1, 0.5))
    d, spread, shift = pick((1, 1, 5, 17, 63)), pick(SPREADS), pick((0.0, -1e4, 1e4))
    hidden = numbers(seed, n, d) if d > 1 else np.ones((n, 1), np.float32)
    w = numbers(seed + 1, v, d, spread=spread) + np.float32(shift * (d == 1))
    targets = np.random.default_rng(seed).integers(0, v, n).astype(np.int32)
    logits = product_of(hidden, w.T)
    cap, z = pick((0.0, 0.0, 2.0, 30.0)), float(np.float32(pick((0.0, 0.0, 1e-4, 0.1))))
    slack, x = 2 * logits.room.max(-1, keepdims=True) * (d > 1), logits.exact
    share = np.tanh(x / cap) if cap else np.zeros_like(x)
    if cap:
        x, slack = cap * share, slack + 32 * EPS * cap
    low = x - x.max(-1, keepdims=True)
    reach = np.abs(low[np.arange(n), targets]) + np.float32(smoothing) * v * np.abs(low).mean(-1)
    smooth = float(np.float32(smoothing))
    whole = x.max(-1) + np.log(np.exp(low).sum(-1))  # the logarithm of Z, and how far off it is
    off = slack[:, 0] + EPS * (v + 16 + 4 * np.abs(whole))
    loss = Output(
        reference.cross_entropy(x, targets, smooth, z),
        2 * slack[:, 0] + EPS * (2 * v + 16 + 4 * reach) + z * (2 * np.abs(whole) * off + off**2 + 8 * EPS * whole**2),
    )
    factor, strayed = (1 + 2 * z * whole)[:, None], (2 * z * off + 16 * EPS * z * np.abs(whole))[:, None]
    p, wanted = reference.softmax(x), np.full((n, v), smooth / v)
    wanted[np.arange(n), targets] += 1 - smooth
    # Logits' own rounding is passed on by e^x, and what is left of a difference of theirs.
    passed = p * (np.expm1(2 * slack) + EPS * (v + NEGLIGIBLE + 16)) + 4 * EPS * (wanted + p) + TINY
    bent = 2 * slack / (cap or 1) * bool(cap) + 8 * EPS  # how far off the softcap's own slope is
    room = passed * np.maximum(1, np.abs(factor)) + p * strayed
    slopes = Output((p * factor - wanted) * (1 - share**2), room + (p * np.abs(factor) + wanted) * bent)
    g, held = numbers(seed + 2, n), slopes.exact.astype(np.float32)
    to_hidden, to_w = product_of(held, w), product_of(held.T, g.astype(np.float64)[:, None] * hidden)
    to_w = to_w._replace(room=to_w.room + TINY)
    scaled = Output(to_hidden.exact * g[:, None], to_hidden.room * np.abs(g)[:, None] + TINY)
    return [
        Case("linear_cross_entropy", [loss, slopes], [hidden, w, targets], [n, d, v, smooth, cap, z]),
        Case("linear_cross_entropy_backward", [scaled, to_w], [g, held, hidden, w], [n, d, v]),
    ]


def table_rows(pick: Pick) -> list[Case]:
    seed, n, d, v = pick(SEEDS), pick(COUNTS), pick(WIDTHS), pick((1, 2, 12))
    table, g = numbers(seed, v, d), numbers(seed + 1, n, d)
    ids = np.random.default_rng(seed).integers(0, v, n).astype(np.int32)  # often repeated: n may exceed v
    one_hot = (ids[None] == np.arange(v)[:, None]).astype(np.float64)
    return [
        Case("gather_rows", [Output(table[ids].astype(np.float64))], [table, ids], [n, d, v]),
        Case("scatter_rows", [product_of(one_hot, g)], [g, ids], [n, d, v]),
    ]


def norm_rows(pick: Pick) -> tuple[int, int, float, Array, Array, Array]:
    """Counts, eps, rows, some of them constant or zero, their gradient, weights."""
    seed, n, d, eps = pick(SEEDS), pick(COUNTS), pick(WIDTHS), float(np.float32(pick((1e-12, 1e-5, 0.5))))
    x = numbers(seed, n, d, spread=pick((1e-3, 1.0, 1e3)))
    x[:: pick((1, 2, 1000))] = pick((0.0, 1.0, -7.3))
    return n, d, eps, x, numbers(seed + 1, n, d), numbers(seed + 2, d)


def rms_norms(pick: Pick) -> list[Case]:
    n, d, eps, x, g, w = norm_rows(pick)
    x64, g64, w64 = (a.astype(np.float64) for a in (x, g, w))
    r = 1 / np.sqrt((x64**2).mean(-1, keepdims=True) + eps)
    y = x64 * r * w64
    forward = [Output(y, EPS * (d + 8) * np.abs(y)), Output(r[:, 0], EPS * (d + 8) * r[:, 0])]
    given = r[:, 0].astype(np.float32)
    r = given.astype(np.float64)[:, None]
    dot = lambda a: a.sum(-1, keepdims=True)
    to_x = g64 * w64 * r - x64 * dot(g64 * w64 * x64) * r**3 / d
    room = np.abs(g64 * w64) * r + np.abs(x64) * dot(np.abs(g64 * w64 * x64)) * r**3 / d
    to_w = Output((g64 * x64 * r).sum(0), EPS * (n + 8) * np.abs(g64 * x64 * r).sum(0))
    return [
        Case("rms_norm", forward, [x, w], [n, d, eps]),
        Case("rms_norm_backward", [Output(to_x, EPS * (d + 16) * room + TINY), to_w], [g, x, w, given], [n, d]),
    ]


def qk_norms(pick: Pick) -> list[Case]:
    """RMS norms of vectors of two widths in a row, each a row of `rms_norms`, among numbers that stay as they are."""
    seed, n, kept, eps = (
        pick(SEEDS),
        pick((1, 2, 31, 33)),
        pick((1, 5, 64)),
        float(np.float32(pick((1e-12, 1e-5, 0.5)))),
    )
    counts, widths = (pick((1, 3)), pick((1, 2))), (pick(WIDTHS), pick(WIDTHS))
    ends = np.cumsum([0] + [w for count, w in zip(counts, widths, strict=True) for _ in range(count)])
    x, g = numbers(seed, n, ends[-1] + kept, spread=pick((1e-3, 1.0, 1e3))), numbers(seed + 1, n, ends[-1] + kept)
    weights = [numbers(seed + 2 + i, width) for i, width in enumerate(widths)]
    x64, g64 = x.astype(np.float64), g.astype(np.float64)
    y, y_room, to_x, to_x_room = x64.copy(), np.zeros_like(x64), g64.copy(), np.zeros_like(x64)
    to_w, size, held = [np.zeros(w) for w in widths], [np.zeros(w) for w in widths], []
    average = lambda a: a.mean(-1, keepdims=True)
    for i, (start, end) in enumerate(itertools.pairwise(ends)):
        at, which = slice(start, end), int(i >= counts[0])
        w, xs, gs = weights[which].astype(np.float64), x64[:, at], g64[:, at]
        r = 1 / np.sqrt(average(xs**2) + eps)
        y[:, at] = xs * r * w
        y_room[:, at] = EPS * (end - start + 8) * np.abs(y[:, at])
        held.append(r[:, 0].astype(np.float32))
        r, wg = held[-1].astype(np.float64)[:, None], gs * w
        to_x[:, at] = wg * r - xs * average(wg * xs) * r**3
        rough = np.abs(wg) * r + np.abs(xs) * average(np.abs(wg * xs)) * r**3
        to_x_room[:, at] = EPS * (end - start + 16) * rough + TINY
        to_w[which] += (gs * xs * r).sum(0)
        size[which] += np.abs(gs * xs * r).sum(0)
    rstd, words = np.stack(held, -1), [n, counts[0], widths[0], counts[1], widths[1], kept]
    both = Output(np.concatenate(to_w), EPS * (n * max(counts) + 8) * np.concatenate(size) + TINY)
    forward = [Output(y, y_room), Output(rstd.astype(np.float64), EPS * (max(widths) + 8) * rstd)]
    return [
        Case("qk_norm", forward, [x, *weights], [*words, eps]),
        Case("qk_norm_backward", [Output(to_x, to_x_room), both], [g, x, *weights, rstd], words),
    ]


def layer_norms(pick: Pick) -> list[Case]:
    (n, d, eps, x, g, w), biased = norm_rows(pick), pick((0, 1))
    bias = w[::-1].copy()
    x64, g64, w64, b64 = (a.astype(np.float64) for a in (x, g, w, bias * np.float32(biased)))
    mean, off = x64.mean(-1, keepdims=True), EPS * (d + 2) * np.abs(x64).mean(-1, keepdims=True)
    r = 1 / np.sqrt(x64.var(-1, keepdims=True) + eps)
    centred = x64 - mean
    # A mean that is off moves the variance by its square.
    far = EPS * (d + 10) + (off * r) ** 2
    y = Output(
        centred * r * w64 + b64,
        np.abs(w64) * r * (off + np.abs(centred) * far) + 4 * EPS * np.abs(b64) + 4 * EPS * np.abs(centred * r * w64),
    )
    stats = Output(np.concatenate([mean, r], -1), np.concatenate([off, r * far], -1))
    held = stats.exact.astype(np.float32)
    mean, r = held.astype(np.float64)[:, :1], held.astype(np.float64)[:, 1:]
    wg, c, average = g64 * w64, x64 - mean, lambda a: a.mean(-1, keepdims=True)
    to_x = (wg - average(wg) - c * average(wg * c) * r**2) * r
    room = (np.abs(wg) + average(np.abs(wg)) + np.abs(c) * average(np.abs(wg * c)) * r**2) * r
    both, size = (np.stack([f(g64 * c * r).sum(0), f(g64).sum(0)]) for f in (lambda a: a, np.abs))
    return [
        Case("layer_norm", [y, stats], [x, w, bias], [n, d, biased, eps]),
        Case(
            "layer_norm_backward",
            [Output(to_x, EPS * (3 * d + 16) * room + TINY), Output(both, EPS * (n + 8) * size)],
            [g, x, w, held],
            [n, d],
        ),
    ]


def gate(x: Array, kind: int) -> tuple[Array, Array, Array, Array]:
    """The share of x that passes in float64, the derivative of x times that share, the sizes that the derivative is
    summed of, and how rounding grows, for the kinds of elementwise.c."""
    if kind >= 3:
        s = np.where(x > 0, 1.0 if kind == 3 else x, 0.0)
        return s, s * (kind - 2), s * (kind - 2), np.full_like(x, 4 * EPS)
    if kind == 2:
        s, falling = reference.normal_below(x), np.abs(x) * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
        return s, s + np.sign(x) * falling, s + falling, EPS * (16 + 6 * np.minimum(x**2 / 2, NEGLIGIBLE))
    inside = x if kind == 0 else np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)
    slope = np.ones_like(x) if kind == 0 else np.sqrt(8 / np.pi) * (1 + 3 * 0.044715 * x**2)
    s, grown = reference.sigmoid(inside), EPS * (16 + 6 * np.minimum(np.abs(inside), NEGLIGIBLE))
    return s, s * (1 + x * (1 - s) * slope), s * (1 + np.abs(x) * slope), grown


def elementwise(x: Array, up: Array, g: Array, kind: int) -> tuple[Output, Output, Output]:
    """x·gate(x)·up, and the gradients for x and up."""
    x, up, g = (a.astype(np.float64) for a in (x, up, g))
    s, derivative, size, grown = gate(x, kind)
    room = TINY * (1 + np.abs(x) ** 3) * (1 + np.abs(g)) * (1 + np.abs(up))
    return (
        Output(x * s * up, grown * np.abs(x * s * up) + room),
        Output(g * up * derivative, grown * np.abs(g * up) * size + room),
        Output(g * x * s, grown * np.abs(g * x * s) + room),
    )


def activations(pick: Pick) -> list[Case]:
    seed, n, kind = pick(SEEDS), pick((1, 17, 200, 8191, 8193, 20000)), pick(range(5))
    x, g = numbers(seed, n, spread=pick(SPREADS)), numbers(seed + 1, n)
    y, to_x, _ = elementwise(x, np.ones_like(x), g, kind)
    return [Case("activation", [y], [x], [n, kind]), Case("activation_backward", [to_x], [g, x], [n, kind])]


def sums(pick: Pick) -> list[Case]:
    seed, n = pick(SEEDS), pick((1, 17, 200, 8191, 8193, 20000))
    x, y = numbers(seed, n, spread=pick(SPREADS)), numbers(seed + 1, n)
    exact = x.astype(np.float64) + y
    return [Case("add", [Output(exact, EPS * np.abs(exact))], [x, y], [n])]


def gates(pick: Pick) -> list[Case]:
    seed, n, d, kind = pick(SEEDS), pick(COUNTS), pick(WIDTHS), pick(range(5))
    x, up, g = numbers(seed, n, d, spread=pick(SPREADS)), numbers(seed + 1, n, d), numbers(seed + 2, n, d)
    y, to_x, to_up = elementwise(x, up, g, kind)
    both = Output(np.concatenate([to_x.exact, to_up.exact], -1), np.concatenate([to_x.room, to_up.room], -1))
    side = np.concatenate([x, up], -1)
    return [Case("gated", [y], [side], [n, d, kind]), Case("gated_backward", [both], [g, side], [n, d, kind])]


def rotations(pick: Pick) -> list[Case]:
    """Any tables, any places; heads beyond those that are turned stay as they are, and a head's last numbers may."""
    seed, b, t, h, d = pick(SEEDS), pick((1, 3)), pick((1, 7, 33)), pick((1, 2, 5)), 2 * pick((1, 2, 8, 17))
    turned, rows, sign, context = pick(range(h + 1)), pick((1, b)), pick((1, -1)), 40
    width, interleaved = 2 * pick(range(1, d // 2 + 1)), pick((0, 1))
    x, cos, sin = numbers(seed, b, t, h, d), numbers(seed + 1, context, width), numbers(seed + 2, context, width)
    places = np.random.default_rng(seed).integers(0, context, (rows, t)).astype(np.int32)
    x64, c, s = x.astype(np.float64), *(table.astype(np.float64)[places][:, :, None] for table in (cos, sin))
    exact, room = x64.copy(), np.zeros_like(x64)
    for j in range(width):
        other = j ^ 1 if interleaved else (j + width // 2) % width
        parts = x64[..., j] * c[..., j], (1 if other < j else -1) * sign * x64[..., other] * s[..., j]
        exact[..., j], room[..., j] = sum(parts), 3 * EPS * sum(map(np.abs, parts))
    exact[:, :, turned:], room[:, :, turned:] = x64[:, :, turned:], 0.0
    words = [b, t, h, d, turned, width, interleaved, rows, len(cos), sign]
    return [Case("rotate", [Output(exact, room)], [x, cos, sin, places], words)]


def updates(pick: Pick) -> list[Case]:
    """The sum of squares, and Adam's step in place."""
    seed, n, spread = pick(SEEDS), pick((1, 15, 17, 8191, 8193, 20000)), pick((1e-3, 1.0, 1e3))
    lr, beta1, beta2, eps, l2, decay = (
        pick(x) for x in ((0.0, 0.02), (0.0, 0.9), (0.5, 0.99), (1e-8, 1e-4), (0.0, 0.1), (0.0, 0.5))
    )
    w, m, g = numbers(seed, n), numbers(seed + 1, n, spread=spread), numbers(seed + 2, n, spread=spread)
    v = (numbers(seed + 3, n, spread=spread) ** 2).astype(np.float32)
    scalars, scale = np.array([lr, 1.7, 2.3], np.float32), np.array([pick((1.0, 0.3))], np.float32)
    words = [beta1, 1 - beta1, beta2, 1 - beta2, eps, l2, decay]
    b1, a1, b2, a2, e, added, k = (float(np.float32(x)) for x in words)
    rate, c1, c2, f = (float(x) for x in (*scalars, *scale))
    w64, m64, v64, g64 = (a.astype(np.float64) for a in (w, m, v, g))
    pulled, off = g64 * f + added * w64, 3 * EPS * (np.abs(g64 * f) + np.abs(added * w64))
    m_new, m_off = b1 * m64 + a1 * pulled, 4 * EPS * (np.abs(b1 * m64) + np.abs(a1 * pulled)) + a1 * off
    v_new = b2 * v64 + a2 * pulled**2
    v_off = 6 * EPS * v_new + 2 * a2 * (np.abs(pulled) + off) * off
    root = np.sqrt(v_new * c2)
    root_off = 4 * EPS * root + np.minimum(v_off * c2 / np.maximum(root, 1e-30), np.sqrt(v_off * c2))
    move = rate * m_new * c1 / (root + e)
    move_off = 2 * (rate * c1 * m_off + np.abs(move) * root_off) / (root + e) + 8 * EPS * np.abs(move)
    w_new = w64 * (1 - rate * k) - move
    outputs = [
        Output(w_new, 4 * EPS * (np.abs(w64) + np.abs(w_new)) + move_off, w),
        Output(m_new, m_off + TINY, m),
        Output(v_new, v_off + TINY, v),
    ]
    total = np.array([(g64**2).sum()])
    return [
        Case("square_sum", [Output(total, 520 * EPS * total)], [g], [n]),
        Case("adam", outputs, [g, scalars, scale], [n, *words]),
    ]


def muons(pick: Pick) -> list[Case]:
    """Muon's step in place: tall, wide and square; Newton–Schulz multiplies an error by 3.4445 an iteration at most."""
    seed, rows, columns, iterations = pick(SEEDS), pick((1, 5, 33, 70)), pick((1, 7, 40, 70)), pick((1, 3, 5))
    nesterov, momentum, decay, lr = pick((0, 1)), pick((0.0, 0.9)), pick((0.0, 0.5)), pick((0.0, 0.02))
    w, m, g = (numbers(seed + i, rows, columns) for i in range(3))
    scalars, scale = np.array([lr], np.float32), np.array([pick((1.0, 0.3))], np.float32)
    a, b, c = 3.4445, -4.7750, 2.0315
    keep, given = float(np.float32(momentum)), g.astype(np.float64) * float(scale[0])
    m_new = keep * m.astype(np.float64) + (1 - keep) * given
    x = (1 - keep) * given + keep * m_new if nesterov else m_new
    x = x / (np.sqrt((x * x).sum()) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T if rows <= columns else x.T @ x
        polynomial = b * gram + c * gram @ gram
        x = a * x + (polynomial @ x if rows <= columns else x @ polynomial)
    rate, stretch = float(scalars[0]), np.sqrt(max(1.0, rows / columns))
    w_new = w.astype(np.float64) * (1 - rate * decay) - rate * stretch * x
    room = rate * stretch * a**iterations * EPS * (16 + 2 * min(rows, columns)) + 4 * EPS * np.abs(w)
    outputs = [Output(w_new, room, w), Output(m_new, 4 * EPS * (np.abs(m) + np.abs(given)), m)]
    return [
        Case(
            "muon",
            outputs,
            [g, scalars, scale],
            [1, rows, columns, nesterov, iterations, float(momentum), float(decay), a, b, c],
        )
    ]


PRODUCTS = {"product": products, "linear": linears, "loss": losses}
ROW_MAKERS = {
    "table": table_rows,
    "rms_norm": rms_norms,
    "qk_norm": qk_norms,
    "layer_norm": layer_norms,
    "sum": sums,
    "activation": activations,
    "gated": gates,
    "rotate": rotations,
    "update": updates,
    "muon": muons,
}
