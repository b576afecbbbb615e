"""Logits to text: softmax, the chain of filters, one draw, stop conditions, prompts and the loop around them."""

from llmspec.decoding.answer import Event, FinishReason
from llmspec.decoding.batch import Decoder
from llmspec.decoding.generate import Generation, generate, stream
from llmspec.decoding.prompts import chat_prompt, text_prompt
from llmspec.decoding.sampler import Choice

__all__ = [
    "Choice", "Decoder", "Event", "FinishReason", "Generation", "chat_prompt", "generate", "stream", "text_prompt",
]  # fmt: skip
