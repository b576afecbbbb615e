"""GGUF files (ggml-org/ggml, docs/gguf.md): models in one file or several, read without trust."""
