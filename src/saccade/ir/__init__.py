"""What a mod means: expressions, programs and everything that is done to them without running a kernel.

Owns the vocabulary (`ops`), hash-consed expressions (`expr`), structures and programs, their text, verifier,
rewrites, derivative, reference interpreter and the dropout stream. Knows nothing of torch, devices or blocks.
"""
