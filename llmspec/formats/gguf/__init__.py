"""GGUF files (ggml-org/ggml, "GGUF"): models in one file or several, read without trust."""
