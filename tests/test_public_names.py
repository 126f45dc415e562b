"""`saccade.__all__` is the public surface, no more and no less."""

from __future__ import annotations

import inspect
import types

import pytest
from torch.nn.attention import flex_attention as torch_flex

import saccade


def test_all_is_sorted_and_without_repeats() -> None:
    assert list(saccade.__all__) == sorted(set(saccade.__all__))


def test_all_is_what_the_namespace_shows() -> None:
    shown = {
        name
        for name, value in vars(saccade).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert shown == {name for name in saccade.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", saccade.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(saccade, name)
    # A constant or a type alias has no docstring of its own; inspect would show that of its class.
    if callable(value) and hasattr(value, "__module__") and value.__module__.startswith("saccade"):
        assert inspect.getdoc(value), f"saccade.{name} has no docstring"


def test_the_version_is_one_and_well_formed() -> None:
    assert saccade.__version__.split(".")[0].isdecimal()


def test_every_name_of_torchs_flex_attention_is_here() -> None:
    assert set(torch_flex.__all__) <= set(saccade.__all__)
    assert saccade._DEFAULT_SPARSE_BLOCK_SIZE == torch_flex._DEFAULT_SPARSE_BLOCK_SIZE


def test_kernel_options_has_torchs_keys() -> None:
    ours, torchs = (set(one.FlexKernelOptions.__annotations__) for one in (saccade, torch_flex))
    assert ours - torchs == {"SPLIT_KV", "max_autotune"}
    assert torchs <= ours
