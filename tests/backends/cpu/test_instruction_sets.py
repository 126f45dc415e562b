"""The catalogue under every instruction set that this processor can run, not the best alone.

AVX2 runs all of it; of the others, which differ from it or from the best in few instructions, every third
case.
"""

from __future__ import annotations

import pytest
import torch

import oracle
from backends.cpu.test_catalogue import FEW, HEADS, TALL, WIDE, check, computed, draw, precision
from catalogue import CATALOGUE, Case, Sizes
from saccade.runtime.host import this_host

WHOLE = "avx2"
OTHERS = [isa for isa in this_host().isas[1:] if isa != WHOLE]
CASES = [(WHOLE, case) for case in CATALOGUE if WHOLE in this_host().isas[1:]]
CASES += [(isa, case) for place, isa in enumerate(OTHERS) for case in CATALOGUE[place::3]]


@pytest.mark.parametrize(
    ("dtype", "lengths"), [(torch.float32, WIDE), (torch.bfloat16, TALL), (torch.float32, FEW)], ids=str
)
@pytest.mark.parametrize(("isa", "case"), CASES, ids=str)
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
