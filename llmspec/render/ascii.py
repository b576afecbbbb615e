"""Our own signs in ASCII, for outputs that cannot write them."""

from __future__ import annotations

ASCII = str.maketrans({
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)), **dict.fromkeys("▏▎▍▌", " "), **dict.fromkeys("▋▊▉", "#"),
    **dict.fromkeys("─━╴╶╸╺", "-"), **dict.fromkeys("│┃", "|"), **dict.fromkeys("├└┌┐┘┤┬┴┼╭╮╯╰", "+"),
    "■": "#", "·": ".", "•": "*", "●": "o", "▲": "^", "◆": "+", "▸": ">", "⏎": "$", "⟦": "[", "⟧": "]", "…": "...",
    "×": "x", "→": "->", "≈": "~", "≤": "<=", "≥": ">=", "–": "-", "—": "-", "✓": "+", "✗": "x", "’": "'", "‘": "'",
    "“": '"', "”": '"', "−": "-", "¹": "^1", "²": "^2", "³": "^3",
    "∝": "~", "√": "sqrt", "⊙": "*", "←": "<-", "⇥": ">", "ᵀ": "^T", "ᶻ": "^z", "⁻": "^-", "₁": "_1", "₂": "_2",
    "\u0302": "^", "β": "beta", "θ": "theta", "μ": "mu", "π": "pi", "Σ": "sum", "�": "?",
    **{chr(code): "." for code in range(0x2800, 0x2900)},
})
"""What stands for our own signs where an output cannot write them."""
