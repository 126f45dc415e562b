"""What every engine's code knows of a program: proofs of its integers, its derivative, what captures receive.

Nothing here writes code. Engines number a program's nodes in the order of `walk` over what is written, and
facts speak of those numbers.
"""
