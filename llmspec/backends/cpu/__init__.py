"""The CPU backend: C functions, their compiler, their gradients, and captured steps."""
