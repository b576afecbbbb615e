"""Plan -> tinygrad graphs: weights, forward pass, and the steps that run under TinyJit."""
