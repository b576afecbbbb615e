"""The run directory: everything that happened, written so that a run killed anywhere opens."""
