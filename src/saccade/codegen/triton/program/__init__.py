"""Programs as Triton text: what a kernel computes for pairs of a query and a key.

Owns the statements that evaluate a program where a kernel's template puts them, the program's parameters, and
the functions such statements call. It knows no tiles and no loops over keys: a template hands it the names of
positions and scores, and takes lines and expressions. Invariant: the text follows from its inputs alone.
"""
