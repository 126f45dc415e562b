"""Engines that compute attention, behind one contract (`base`), found by name (`registry`).

Each engine says why it cannot take a problem, or compiles it. Choosing among them is the planner's.
"""
