"""What nested tensors cannot be used for, what is said of them, and where a compiled graph ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils.flop_counter import FlopCounterMode

from attention.nested_sequences import (
    DIM,
    HEADS,
    leaves_of,
    near,
    nest,
    nested,
    offsets_of,
)
from saccade import AuxRequest, BlockMask, explain, flex_attention
from saccade.attention.sequences import Ragged, sequences_of
from saccade.errors import ArgumentError, ArgumentTypeError, ShapeError, UnsupportedError
from saccade.masks import causal, jagged

# What nested tensors of torch say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")

FAULTS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "no tensor": (
        lambda: flex_attention(nest(torch.zeros(3, 2, 8), offsets_of([3])), [1], [2]),
        ArgumentTypeError,
        "key must be a torch tensor, got list",
    ),
    "a dense key": (
        lambda: flex_attention(nest(torch.zeros(3, 2, 8), offsets_of([3])), *[torch.zeros(1, 2, 3, 8)] * 2),
        ArgumentTypeError,
        r"key must be a nested tensor as the others are, got a dense one of shape \[1, 2, 3, 8\]",
    ),
    "a dense query": (
        lambda: flex_attention(torch.zeros(1, 2, 3, 8), *[nest(torch.zeros(3, 2, 8), offsets_of([3]))] * 2),
        ArgumentTypeError,
        "query must be a nested tensor",
    ),
    "strided": (
        lambda: flex_attention(*[torch.nested.nested_tensor([torch.zeros(2, 3, 8)])] * 3),
        UnsupportedError,
        "must have the layout torch.jagged, got query.layout=torch.strided.*layout=torch.jagged",
    ),
    "not transposed": (
        lambda: flex_attention(*[nest(torch.zeros(3, 2, 8), offsets_of([3])).transpose(1, 2)] * 3),
        ShapeError,
        r"ragged in dimension 2, got shape=\[1, j\d+, 2, 8\], ragged in dimension 1.*query.transpose\(1, 2\)",
    ),
    "three dimensions": (
        lambda: flex_attention(
            *[torch.nested.nested_tensor_from_jagged(torch.zeros(3, 8), offsets_of([3]))] * 3
        ),
        ShapeError,
        "must be nested as .*give it the missing dimensions",
    ),
    "another number of sequences": (
        lambda: flex_attention(*nested([torch.zeros(4, 2, 8)] * 3, (1, 3), (4,))),
        ShapeError,
        "same number of sequences, got 2 and 1",
    ),
    "a value of other lengths": (
        lambda: flex_attention(
            *nested([torch.zeros(4, 2, 8)] * 2 + [torch.zeros(4, 2, 8)], (1, 3))[:2],
            nest(torch.zeros(4, 2, 8), offsets_of((2, 2))),
        ),
        ShapeError,
        r"same lengths at the same places, got key.offsets\(\)=\[0, 1, 4\] and value.offsets\(\)=\[0, 2, 4\]",
    ),
    "offsets beyond the values": (
        lambda: flex_attention(*nested([torch.zeros(4, 2, 8)] * 3, (3, 3))),
        ArgumentError,
        "offsets of query must end within its 4 values, got 6",
    ),
    "weights": (
        lambda: flex_attention(
            *nested([torch.zeros(4, 2, 8)] * 3, (1, 3)), return_aux=AuxRequest(weights=True)
        ),
        UnsupportedError,
        r"attention weights of nested tensors differ in two lengths.*query.unbind\(\)",
    ),
    "heads": (
        lambda: flex_attention(*nested([torch.zeros(4, 2, 8), *[torch.zeros(4, 1, 8)] * 2], (1, 3))),
        ShapeError,
        "same number of heads, got Hq=2 and Hkv=1",
    ),
}


@pytest.mark.parametrize(("call", "error", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_what_cannot_be_used_is_refused(
    call: Callable[[], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_mask_with_a_gradient_is_refused_by_its_own_name() -> None:
    table = torch.zeros(4, requires_grad=True)
    with pytest.raises(ArgumentError, match="mask_mod must read tensors without a gradient, got table"):
        flex_attention(
            *nested([torch.zeros(4, 2, 8)] * 3, (1, 3)), mask_mod=lambda b, h, q, kv: table[kv] > 0
        )


def test_offsets_without_numbers_are_refused() -> None:
    with (
        FakeTensorMode(shape_env=ShapeEnv()),
        pytest.raises(UnsupportedError, match="planned from the numbers in their offsets"),
    ):
        flex_attention(*nested([torch.zeros(4, 2, 8)] * 3, (1, 3)))


def test_what_others_watch_is_not_kept() -> None:
    offsets = offsets_of((4, 5))
    cut = Ragged(offsets, None, 9)
    with FlopCounterMode(display=False):
        watched = sequences_of(cut, cut)
    assert sequences_of(cut, cut) is not watched
    assert sequences_of(cut, cut) is sequences_of(cut, cut)


def test_explain_tells_of_the_packed_call() -> None:
    query, key, value = nested(leaves_of((4, 5)), (4, 5))
    told = explain(query, key, value, mask_mod=causal)
    assert told.backend == "cpu"
    assert f"query [1, {HEADS}, 9, {DIM}]" in str(told)
    assert isinstance(told.blocks, BlockMask)
    assert told.blocks.mask_mod == jagged(causal, offsets_of((4, 5)))


class TestCompiled:
    def leaves(self) -> list[Tensor]:
        """[B, j, H, D], nested themselves."""
        offsets = offsets_of((4, 5))
        return [
            torch.nested.nested_tensor_from_jagged(one.detach(), offsets).requires_grad_()
            for one in leaves_of((4, 5))
        ]

    # Dynamo looks at .grad of what it is given, nested tensors too.
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
    def test_a_graph_ends_at_the_call(self) -> None:
        leaves = self.leaves()

        def layer(*tensors: Tensor) -> Tensor:
            query, key, value = (one.transpose(1, 2) for one in tensors)
            return flex_attention(query * 2, key, value, near, mask_mod=causal) + 1

        expected = layer(*leaves).values()
        found = torch.compile(layer, backend="aot_eager")(*leaves).values()
        torch.testing.assert_close(found, expected)
        mine, theirs = (torch.autograd.grad(one.square().sum(), leaves) for one in (found, expected))
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one.values(), other.values())

    def test_a_whole_graph_is_refused_with_the_reason(self) -> None:
        compiled = torch.compile(flex_attention, backend="eager", fullgraph=True)
        with pytest.raises(torch._dynamo.exc.Unsupported, match="compile without fullgraph=True"):
            compiled(*(one.detach().transpose(1, 2) for one in self.leaves()))
