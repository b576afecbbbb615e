"""Measures this machine, a plan's training steps and its decoding, also beside other libraries."""
