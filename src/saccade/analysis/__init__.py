"""Where a program matters: facts about it over rectangles of (q_idx, kv_idx), and the kinds of its blocks.

Owns interval evaluation and the classification of blocks into EMPTY, PARTIAL and FULL, stored as `Runs`. It
knows numpy arrays and expressions, neither torch nor engines. Invariant: what it says of a block is exact
inside the true lengths.
"""
