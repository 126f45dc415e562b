"""The catalogue under every instruction set that this processor can run, not the best alone.

AVX2 runs all of it in two types, and decodes every third case. The others differ from it or from the best in
few instructions: a sixth of each.
"""

from __future__ import annotations

import pytest
import torch

import oracle
from backends.cpu.test_catalogue import FEW, HEADS, TALL, WIDE, check, computed, draw, precision
from catalogue import CATALOGUE, Case, Sizes
from saccade.runtime.host import this_host

WHOLE = "avx2"
HERE = this_host().isas[1:]  # the best has `test_catalogue`
RUNS = [
    (isa, case, dtype, lengths)
    for isa in HERE
    for dtype, lengths, step in (
        (torch.float32, WIDE, 1 if isa == WHOLE else 6),
        (torch.bfloat16, TALL, 1 if isa == WHOLE else 6),
        (torch.float32, FEW, 3 if isa == WHOLE else 6),
    )
    for case in CATALOGUE[(lengths[0] + len(isa)) % step :: step]
]


@pytest.mark.parametrize(("isa", "case", "dtype", "lengths"), RUNS, ids=str)
def test_it_is_the_oracles(
    isa: str, case: Case, dtype: torch.dtype, lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_CPU_ISA", isa)
    q_len, kv_len = lengths
    tensors = draw(q_len, kv_len, dtype)
    mods = case.build(Sizes(q_len=q_len, kv_len=kv_len, heads=HEADS, dtype=torch.float32))
    mask = mods.mask if mods.plain_mask is None else mods.plain_mask
    expected = oracle.attention(*tensors, mask=mask, score=mods.score, pairwise=case.pairwise)
    check(computed(tensors, mods, mask_mod=mods.mask), expected, dtype, precision(mods, dtype))
