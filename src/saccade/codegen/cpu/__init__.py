"""Fused attention for CPUs as LLVM IR, from a `KernelSpec`.

Owns the text alone: `saccade.runtime` compiles it, `saccade.backends` decides what to ask for and calls it.
"""
