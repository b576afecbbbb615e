"""Formats that are no text, by suffix: what they are, and what takes the text out of them."""

from __future__ import annotations

_TO_TEXT = "take its text out first: {}"
_UNPACK = "unpack it, and name the files inside"
_NARROW = "narrow the pattern, so that only text is read"
_PANDOC = _TO_TEXT.format("pandoc -t plain {file} -o {text}")
_PANDAS = _TO_TEXT.format(
    "python -c 'import pandas, sys; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], "
    'orient="records", lines=True)\' {file} {records}'
)
NO_TEXT: dict[str, tuple[str, str]] = {
    ".pdf": ("a PDF document", _TO_TEXT.format("pdftotext {file} {text}")),
    **dict.fromkeys((".docx", ".odt", ".epub", ".rtf"), ("a word processor's document or an e-book", _PANDOC)),
    **dict.fromkeys((".doc", ".ppt", ".pptx"), ("an office document", "save it as plain text")),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), ("a spreadsheet", "save it as .csv")),
    ".parquet": ("Parquet data", _PANDAS),
    **dict.fromkeys((".arrow", ".feather"), ("Arrow data", "write its records as .jsonl")),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".whl"), ("an archive", _UNPACK)),
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".gif", ".webp", ".ico", ".mp3", ".wav", ".flac", ".ogg", ".mp4", ".mkv"),
        ("a picture, sound or film", _NARROW),
    ),
    **dict.fromkeys((".pyc", ".so", ".o", ".dll", ".exe", ".class", ".bin"), ("a program", _NARROW)),
    **dict.fromkeys(
        (".npy", ".npz", ".pt", ".pth", ".pkl", ".pickle", ".safetensors", ".gguf", ".h5", ".onnx"),
        ("an array or a model", _NARROW),
    ),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), ("a database", "write its records as .jsonl or .csv")),
}
"""Suffix of a format that is no text -> what it is, what to do."""
