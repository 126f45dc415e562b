"""Workloads and timing: what the command line and the project's own measurements are made of.

Every result here is a value; printing belongs to the command line, and to `test_mask`, whose purpose it is.
Correctness is checked before anything is timed, contenders are timed in turns within one run, and results
travel as medians with their spread.
"""

from saccade.bench.compare import calculate_tflops
from saccade.bench.comparison_table import test_mask

__all__ = ["calculate_tflops", "test_mask"]
