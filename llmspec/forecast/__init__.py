"""What this machine can do, and what a plan will take on it: rates, time, memory, energy."""
