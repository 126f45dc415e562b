"""Programs as vector code: what a kernel computes for pairs of a query and a key.

Owns the split of a program by what its parts depend on, the width of its integers, its reads of captured
tensors and the reach of poison. It knows no tiles: a kernel hands it positions and takes values.
"""
