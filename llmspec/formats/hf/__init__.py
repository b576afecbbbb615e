"""Folders of Hugging Face's transformers: config.json, weights as safetensors, tokenizer, generation settings."""
