"""What every suite shares: fixed seeds, one hypothesis profile, and the share of long suites that is run."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import hypothesis
import numpy
import pytest
import torch

SEED = 20_260_401

# Derandomized, so that a failure is the commit's and not the day's; no deadline, because the first example
# of a test pays for imports and the machine may be shared.
hypothesis.settings.register_profile("saccade", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("saccade")


# Suites that compile a kernel a case, by the end of their path: one case in so many is run, the same ones
# each time; `--thorough` runs all.
LONG_SUITES = {
    "attention/test_catalogue.py": 4,
    "attention/test_compiled.py": 12,
    "attention/test_nested.py": 2,
    "attention/test_training_accuracy.py": 10,
    "attention/test_training_captures.py": 8,
    "attention/test_training_transforms.py": 6,
    "backends/cpu/test_capture_gradients.py": 6,
    "backends/cpu/test_catalogue.py": 6,
    "backends/cpu/test_catalogue_gradients.py": 16,
    "backends/cpu/test_instruction_sets.py": 6,
    "backends/triton/test_catalogue_variants.py": 30,
    "backends/triton/test_dropout.py": 8,
    "backends/triton/test_few_queries.py": 2,
    "backends/triton/test_shapes.py": 3,
    "codegen/cpu/program/test_catalogue_code.py": 4,
    "codegen/cpu/program/test_operations.py": 2,
    "codegen/cpu/test_backward.py": 10,
    "codegen/cpu/test_decode.py": 8,
    "codegen/cpu/test_forward.py": 6,
    "codegen/triton/program/test_catalogue_text.py": 3,
    "codegen/triton/program/test_operations.py": 2,
    "codegen/triton/test_backward.py": 2,
    "codegen/triton/test_backward_compiled.py": 3,
    "codegen/triton/test_forward.py": 2,
    "codegen/triton/test_forward_compiled.py": 3,
    "codegen/triton/test_offline_variants.py": 120,
    "fuzz/test_calls.py": 4,
    "torch_ops/test_backward_operator.py": 6,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run every case of the long suites")
    parser.addoption("--update-golden", action="store_true", help="write the texts that are compared whole")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the long suites have beyond their share; tests without parameters all stay."""
    if config.getoption("--thorough") or any("::" in argument for argument in config.args):
        return
    kept, left_out = [], []
    for item in items:
        path, _, name = item.nodeid.partition("::")
        share = next((share for suite, share in LONG_SUITES.items() if path.endswith(suite)), 1)
        chosen = "[" not in name or zlib.crc32(name.encode()) % share == 0
        (kept if chosen else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Start every test from the same random state, whatever ran before it."""
    random.seed(SEED)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture
def _threads() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
