"""A mod written down under Dynamo and replayed gives the program that tracing it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
from torch import Tensor

from saccade.ir.structure import ModKind
from saccade.ir.text import format_structure
from saccade.tracing import trace
from saccade.tracing.recording import Record, Replayed, recorded

BIAS, PADS, WIDTH = torch.randn(4, 8, 8), torch.zeros(2, 8, dtype=torch.bool), 5
_records: list[Record] = []


def keep(x: Tensor, record: Record) -> Tensor:
    _records.append(record)
    return x + 1


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch.compiler.allow_in_graph(keep)
    yield
    torch._dynamo.reset()


def replayed(mod: Callable[..., Tensor], kind: ModKind, dynamic: bool | None) -> Replayed:
    dtypes = (torch.float32,) * (kind is ModKind.SCORE) + (torch.int64,) * 4

    def run(x: Tensor) -> Tensor:
        return keep(x, recorded(mod, dtypes, x.device))

    torch.compile(run, backend="eager", fullgraph=True, dynamic=dynamic)(torch.zeros(2))
    return Replayed(_records.pop())


def augmented(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    score += BIAS[h, q_idx, kv_idx]
    score *= 3
    return score


SCORES = [
    augmented,
    lambda s, b, h, q, k: -s.abs() + (+s),
    lambda s, b, h, q, k: 1 / (s * s + 1) - 2**s + (3 - s) // 2,
    lambda s, b, h, q, k: s * abs(q - k) + abs(abs(q) - 2),
    lambda s, b, h, q, k: s + (q - k).to((s * 2).dtype),
    lambda s, b, h, q, k: torch.where(q >= k, s, torch.finfo(s.dtype).min),
    lambda s, b, h, q, k: s * (1.5 if q.dim() == 0 and s.is_floating_point() else 2.5),
    lambda s, b, h, q, k: s + BIAS[..., q, k][h] + BIAS[:, q][h, k] - BIAS[h][q].sum(-1),
    lambda s, b, h, q, k: torch.nn.functional.gelu(s, approximate="tanh").clamp(max=3),
    lambda s, b, h, q, k: s * BIAS.size(0) + BIAS.shape[1],
]
MASKS = [
    lambda b, h, q, k: ~(q >= k) | (True ^ (q > k)),
    lambda b, h, q, k: q.new_ones((), dtype=torch.bool) & ~PADS[b, k],
    lambda b, h, q, k: (q == WIDTH) | (k != WIDTH) | (q - k < WIDTH) | (1 << k > q),
    lambda b, h, q, k: torch.arange(8, device=q.device)[q] >= k,
]


@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("number", range(len(SCORES)))
def test_scores(number: int, dynamic: bool | None) -> None:
    found = trace(replayed(SCORES[number], ModKind.SCORE, dynamic), ModKind.SCORE)
    assert format_structure(found.structure) == format_structure(trace(SCORES[number]).structure)


@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("number", range(len(MASKS)))
def test_masks(number: int, dynamic: bool | None) -> None:
    found = trace(replayed(MASKS[number], ModKind.MASK, dynamic), ModKind.MASK)
    assert format_structure(found.structure) == format_structure(trace(MASKS[number]).structure)


@pytest.mark.parametrize(
    "mod",
    [
        lambda b, h, q, k: (q > k) if q > 3 else (k > q),
        lambda b, h, q, k: q > k and k > 1,
        lambda b, h, q, k: 1 <= q <= k,
        lambda b, h, q, k: k < float(q),
        lambda b, h, q, k: k < round(q),
    ],
)
def test_what_needs_a_number_fails_while_it_is_written_down(mod: Callable[..., Tensor]) -> None:
    with pytest.raises(Exception, match=r"(?i)branching|observed exception|no attribute '__round__'"):
        replayed(mod, ModKind.MASK, None)
