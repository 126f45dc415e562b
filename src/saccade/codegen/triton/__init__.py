"""Fused attention for GPUs as Triton modules, from a `TritonSpec`.

Owns the text alone: `saccade.runtime` compiles it, `saccade.backends` decides what to ask for and calls it.
"""
