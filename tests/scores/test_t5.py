"""T5's buckets: equal to the code of T5, to the paper's description, and learned."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ShapeError
from saccade.scores import t5_bias

SETTINGS = [
    (32, 128, True),
    (32, 128, False),
    (8, 20, True),
    (8, 20, False),
    (5, 7, True),
    (7, 300, False),
    (4, 2, True),
    (2, 2, False),
]


def buckets_of(ahead: Tensor, buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """The bucket of each `kv - q`, read off a table that holds its own row numbers."""
    rows = torch.arange(buckets, dtype=torch.float64)[:, None]
    index = torch.tensor(0)
    score = t5_bias(rows, buckets, max_distance, bidirectional)
    base = int(ahead.abs().max())  # so that both positions are at least 0
    return score(
        torch.zeros(ahead.shape, dtype=torch.float64), index, index, torch.tensor(base), ahead + base
    )


@pytest.mark.parametrize(("buckets", "max_distance", "bidirectional"), SETTINGS)
def test_buckets_are_those_of_transformers(buckets: int, max_distance: int, bidirectional: bool) -> None:
    modeling_t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="transformers is missing")
    ahead = torch.cat([torch.arange(-400, 401), torch.randint(-100_000, 100_000, (1000,))])
    expected = modeling_t5.T5Attention._relative_position_bucket(ahead, bidirectional, buckets, max_distance)
    assert torch.equal(buckets_of(ahead, buckets, max_distance, bidirectional).long(), expected)


@pytest.mark.parametrize(("buckets", "max_distance", "bidirectional"), SETTINGS)
def test_buckets_are_what_is_described(buckets: int, max_distance: int, bidirectional: bool) -> None:
    each = buckets // 2 if bidirectional else buckets
    alone = each // 2
    for ahead in range(-400, 401):
        distance = abs(ahead) if bidirectional else max(-ahead, 0)
        place = float(distance)
        if distance >= alone:
            place = alone + math.log(distance / alone) / math.log(max_distance / alone) * (each - alone)
        if abs(place - round(place)) < 1e-6 and distance >= alone:
            continue  # on an edge, where T5's rounding decides
        expected = min(int(place), each - 1) + (each if bidirectional and ahead > 0 else 0)
        assert buckets_of(torch.tensor([ahead]), buckets, max_distance, bidirectional) == expected, ahead


def test_each_head_has_its_column() -> None:
    table = torch.randn(8, 3, dtype=torch.float64)
    index, h = torch.tensor(0), torch.arange(3)
    score = t5_bias(table, buckets=8, max_distance=20)
    made = score(torch.zeros(3, dtype=torch.float64), index, h, torch.tensor(5), torch.tensor(4))
    assert torch.equal(made, table[1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"buckets": 0}, ArgumentError, "t5_bias(): buckets must be at least 1, got 0"),
        ({"buckets": 3}, ArgumentError, "buckets must be at least 4 with bidirectional=True, got 3"),
        (
            {"buckets": 1, "bidirectional": False},
            ArgumentError,
            "buckets must be at least 2 with bidirectional=False, got 1",
        ),
        ({"buckets": 8.0}, ArgumentTypeError, "buckets must be an integer, got float 8.0"),
        ({"max_distance": 0}, ArgumentError, "max_distance must be at least 1, got 0"),
        (
            {"max_distance": 8},
            ArgumentError,
            "max_distance must be above 8, the distances that have a bucket each, got max_distance=8",
        ),
        (
            {"bidirectional": 1},
            ArgumentTypeError,
            "bidirectional must be True (encoder) or False (decoder), got",
        ),
        ({"table": torch.zeros(32, 4).long()}, DTypeError, "table must be floating, got dtype=torch.int64"),
        (
            {"table": torch.zeros(4, 32)},
            ShapeError,
            "[buckets, Hq] with buckets=32, got shape=[4, 32]; transpose it",
        ),
        ({"table": torch.zeros(32)}, ShapeError, "[buckets, Hq] with buckets=32, got shape=[32]"),
    ],
)
def test_an_argument_is_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        t5_bias(**{"table": torch.zeros(32, 4), **arguments})  # type: ignore[arg-type]
