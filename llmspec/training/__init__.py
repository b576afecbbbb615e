"""Phases at work: the order in which they run, the loop, and what is told on the way."""
