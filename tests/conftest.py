"""What every suite shares: fixed seeds and one hypothesis profile."""

from __future__ import annotations

import random

import hypothesis
import numpy
import pytest
import torch

SEED = 20_260_401

# Derandomized, so that a failure is the commit's and not the day's; no deadline, because the first example
# of a test pays for imports and the machine may be shared.
hypothesis.settings.register_profile("saccade", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("saccade")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)
