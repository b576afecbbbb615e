"""The meaning of every operation in plain tinygrad, which GPUs run as it is."""
