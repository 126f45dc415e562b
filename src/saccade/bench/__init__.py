"""Workloads and timing: what the command line and the project's own measurements are made of.

Every result here is a value; printing belongs to the command line. Correctness is checked before anything is
timed, contenders are timed in turns within one run, and results travel as medians with their spread.
"""
