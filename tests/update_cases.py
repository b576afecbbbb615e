"""Cases of the C functions that update weights beside Adam's and Muon's: what they write, in float64, with bounds."""

from __future__ import annotations

import numpy as np
from kernel_cases import SEEDS, TINY
from kernels import EPS, Array, Case, Output, Pick, numbers


def lions(pick: Pick) -> list[Case]:
    """Lion's step in place: a sign, which rounding may turn where it is nearly 0."""
    seed, n = pick(SEEDS), pick((1, 17, 8193))
    lr, beta1, beta2, decay = (pick(x) for x in ((0.0, 0.02), (0.0, 0.9), (0.5, 0.99), (0.0, 0.5)))
    w, m, g = (numbers(seed + i, n) for i in range(3))
    scalars, scale = np.array([lr], np.float32), np.array([pick((1.0, 0.3))], np.float32)
    words = [beta1, 1 - beta1, beta2, 1 - beta2, decay]
    b1, a1, b2, a2, k = (float(np.float32(x)) for x in words)
    rate, given = float(scalars[0]), g.astype(np.float64) * float(scale[0])
    w64, m64 = w.astype(np.float64), m.astype(np.float64)
    c, off = b1 * m64 + a1 * given, 4 * EPS * (np.abs(b1 * m64) + np.abs(a1 * given))
    w_new = w64 * (1 - rate * k) - rate * np.sign(c)
    m_new = b2 * m64 + a2 * given
    outputs = [
        Output(w_new, 4 * EPS * (np.abs(w64) + rate) + 2 * rate * (np.abs(c) <= off), w),
        Output(m_new, 4 * EPS * (np.abs(b2 * m64) + np.abs(a2 * given)) + TINY, m),
    ]
    return [Case("lion", outputs, [g, scalars, scale], [n, *words])]


def schedule_free_steps(pick: Pick) -> list[Case]:
    """A step of schedule-free AdamW in place."""
    seed, n = pick(SEEDS), pick((1, 17, 8193))
    lr, beta1, beta2, eps, decay = (pick(x) for x in ((0.001, 0.02), (0.5, 0.9), (0.5, 0.99), (1e-8, 1e-4), (0.0, 0.5)))
    y, z, x, g = (numbers(seed + i, n) for i in range(4))
    v, total = numbers(seed + 4, n) ** 2, np.array([pick((0.0, 3e-4))], np.float32)
    scalars, scale = np.array([lr, 2.3], np.float32), np.array([pick((1.0, 0.3))], np.float32)
    words = [beta1, 1 - beta1, beta2, 1 - beta2, eps, decay]
    b1, a1, b2, a2, e, k = (float(np.float32(w)) for w in words)
    rate, correction, f = (float(s) for s in (*scalars, *scale))
    y64, z64, x64, v64, g64 = (a.astype(np.float64) for a in (y, z, x, v, g))
    given, sums = g64 * f, float(total[0]) + rate * rate
    v_new = b2 * v64 + a2 * given**2
    move = rate * (given / (np.sqrt(v_new * correction) + e) + k * y64)
    z_new, share = z64 - move, rate * rate / sums
    x_new = x64 + share * (z_new - x64)
    y_new = a1 * z_new + b1 * x_new
    z_off = 24 * EPS * (np.abs(z64) + np.abs(move) + rate * k * np.abs(y64))
    x_off = z_off + 12 * EPS * (np.abs(x64) + np.abs(z_new))
    outputs = [
        Output(y_new, x_off + z_off + 4 * EPS * (np.abs(z_new) + np.abs(x_new)), y),
        Output(z_new, z_off, z),
        Output(x_new, x_off, x),
        Output(v_new, 8 * EPS * v_new + TINY, v),
        Output(np.array([sums]), np.array([4 * EPS * sums]), total),
    ]
    return [Case("schedule_free_adamw", outputs, [g, scalars, scale], [n, *words])]


def adafactors(pick: Pick) -> list[Case]:
    """Adafactor's step in place, of matrices and of a vector (Shazeer & Stern 2018, algorithms 4 and 5)."""
    seed, z, rows, columns = pick(SEEDS), pick((1, 3)), pick((1, 5, 70)), pick((1, 7, 300))
    eps1, eps2, threshold, decay, scaled = 1e-30, 1e-3, 1.0, pick((0.0, 0.5)), pick((0, 1))
    keep, new = (float(np.float32(x)) for x in (0.75, 0.25))
    scalars, scale = np.array([0.02, keep, new], np.float32), np.array([pick((1.0, 0.3))], np.float32)
    rate, f, words = float(scalars[0]), float(scale[0]), [eps1, eps2, threshold, float(decay), scaled]

    def moved(w: Array, update: Array) -> Array:
        w = w.astype(np.float64)
        size = np.sqrt((w**2).mean())
        lr = rate * (max(size, eps2) if scaled else 1.0)
        return w * (1 - lr * decay) - lr / max(1.0, np.sqrt((update**2).mean()) / threshold) * update

    w, g = numbers(seed, z, rows, columns), numbers(seed + 1, z, rows, columns)
    row, column = numbers(seed + 2, z, rows) ** 2 + 0.1, numbers(seed + 3, z, columns) ** 2 + 0.1
    squares = (g.astype(np.float64) * f) ** 2
    row_new = keep * row.astype(np.float64) + new * (squares.mean(2) + eps1)
    column_new = keep * column.astype(np.float64) + new * (squares.mean(1) + eps1)
    by = row_new[:, :, None] * column_new[:, None, :] / row_new.mean(1)[:, None, None]
    w_new, room = moved(w, g.astype(np.float64) * f / np.sqrt(by)), (rows + columns + 64) * EPS
    matrix = [
        Output(w_new, room * (np.abs(w) + np.abs(w_new)), w),
        Output(row_new, room * row_new, row),
        Output(column_new, room * column_new, column),
    ]
    flat, flat_g = numbers(seed + 4, columns), numbers(seed + 5, columns)
    moment = numbers(seed + 6, columns) ** 2 + 0.1
    moment_new = keep * moment.astype(np.float64) + new * ((flat_g.astype(np.float64) * f) ** 2 + eps1)
    flat_new = moved(flat, flat_g.astype(np.float64) * f / np.sqrt(moment_new))
    vector = [
        Output(flat_new, room * (np.abs(flat) + np.abs(flat_new)), flat),
        Output(moment_new, room * moment_new, moment),
    ]
    return [
        Case("adafactor", matrix, [g, scalars, scale], [z, rows, columns, *words]),
        Case("adafactor_vector", vector, [flat_g, scalars, scale], [columns, *words]),
    ]


def averages(pick: Pick) -> list[Case]:
    """An average moves towards a weight in place."""
    seed, n = pick(SEEDS), pick((1, 17, 8193))
    old, w, share = numbers(seed, n), numbers(seed + 1, n), np.array([pick((0.0, 0.001, 1.0))], np.float32)
    new = old.astype(np.float64) + float(share[0]) * (w.astype(np.float64) - old)
    return [Case("average", [Output(new, 4 * EPS * (np.abs(old) + np.abs(w)), old)], [w, share], [n])]


UPDATES = {"lion": lions, "schedule_free": schedule_free_steps, "adafactor": adafactors, "average": averages}
