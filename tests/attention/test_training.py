"""flex_attention on the CPU engine as autograd sees it: it keeps what torch's own functions promise."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

import oracle
from saccade import AuxOutput, AuxRequest, create_block_mask, flex_attention
from saccade.errors import ArgumentError, IndexOutOfRangeError, StaleMaskError, UnsupportedError
from saccade.masks import causal, document, sliding_window

BATCH, HEADS, KV_HEADS, Q_LEN, KV_LEN = 2, 4, 2, 9, 13
NAMES = ("query", "key", "value", "sinks")
WANTED = AuxRequest(lse=True, max_scores=True)


def draw(*, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Leaves: a query, a key, a value and sinks."""
    shapes = ((BATCH, HEADS, Q_LEN, 8), (BATCH, KV_HEADS, KV_LEN, 8), (BATCH, KV_HEADS, KV_LEN, 5), (HEADS,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def attend(
    query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None = None, **options: object
) -> Tensor:
    options = {"mask_mod": causal, "backend": "cpu", **options}
    return flex_attention(query, key, value, sinks=sinks, enable_gqa=True, **options)  # type: ignore[call-overload, no-any-return]


def with_aux(*tensors: Tensor, **options: object) -> tuple[Tensor, AuxOutput]:
    return attend(*tensors, return_aux=WANTED, **options)  # type: ignore[return-value]


def assert_bits(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def gradients(*leaves: Tensor, **options: object) -> tuple[Tensor, ...]:
    """Of the squares of the output, for leaves of the shapes of `draw`."""
    return torch.autograd.grad(attend(*leaves, **options).square().sum(), leaves)


class TestAccumulation:
    def test_gradients_add_to_what_is_there(self) -> None:
        leaves = draw()
        once = gradients(*leaves)
        for _ in range(2):
            attend(*leaves).square().sum().backward()
        for leaf, gradient in zip(leaves, once, strict=True):
            assert_bits(leaf.grad, 2 * gradient)

    def test_a_retained_graph_is_differentiated_again(self) -> None:
        leaves = draw()
        loss = attend(*leaves).square().sum()
        first = torch.autograd.grad(loss, leaves, retain_graph=True)
        assert_bits(torch.autograd.grad(loss, leaves), first)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()

    def test_one_tensor_as_query_key_and_value(self) -> None:
        leaf = torch.randn(1, 2, 7, 8, requires_grad=True)
        (found,) = torch.autograd.grad(attend(leaf, leaf, leaf).square().sum(), leaf)
        apart = [leaf.detach().clone().requires_grad_() for _ in range(3)]
        torch.testing.assert_close(found, sum(gradients(*apart)))

    def test_a_call_whose_input_is_another_calls_output(self) -> None:
        query, key, value = (torch.randn(1, 2, 7, 8, requires_grad=True) for _ in range(3))
        twice = attend(attend(query, key, value), key, value)
        found = torch.autograd.grad(twice.square().sum(), (query, key, value))
        inner = oracle.attention(query, key, value, mask=causal).out
        outer = oracle.attention(inner, key, value, mask=causal).out
        expected = torch.autograd.grad(outer.square().sum(), (query, key, value))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class TestFrozenInputs:
    @pytest.mark.parametrize("learns", list(product((True, False), repeat=4))[:-1], ids=str)
    def test_get_none_and_change_no_other(self, learns: tuple[bool, ...]) -> None:
        leaves = draw()
        every = gradients(*leaves)
        for leaf, flag in zip(leaves, learns, strict=True):
            leaf.requires_grad_(flag)
        attend(*leaves).square().sum().backward()
        for leaf, gradient, flag in zip(leaves, every, learns, strict=True):
            assert_bits(leaf.grad, gradient if flag else None)

    @pytest.mark.parametrize("place", range(4), ids=NAMES)
    def test_one_may_be_asked_of_many(self, place: int) -> None:
        leaves = draw()
        every = gradients(*leaves)
        (one,) = torch.autograd.grad(attend(*leaves).square().sum(), leaves[place])
        assert_bits(one, every[place])

    @pytest.mark.parametrize(
        "surroundings", [torch.no_grad, torch.inference_mode], ids=lambda it: it.__name__
    )
    def test_nothing_is_recorded_where_gradients_are_off(self, surroundings: Callable[[], object]) -> None:
        leaves = draw()
        with surroundings():  # type: ignore[attr-defined]
            assert not attend(*leaves).requires_grad
        assert not attend(*[leaf.detach() for leaf in leaves]).requires_grad


class TestWhichOutputs:
    def loss(self, out: Tensor, lse: Tensor, uses: str) -> Tensor:
        weights = torch.linspace(-1, 1, lse.numel(), dtype=lse.dtype).view_as(lse)
        parts = {"out": out.square().sum(), "lse": (lse * weights).sum()}
        return sum((parts[use] for use in uses.split()), torch.zeros((), dtype=lse.dtype))

    @pytest.mark.parametrize("uses", ["out", "lse", "out lse"])
    def test_each_sends_its_own_gradient(self, uses: str) -> None:
        leaves = draw(dtype=torch.float64)
        out, aux = with_aux(*leaves)
        assert aux.lse is not None
        loss = self.loss(out, aux.lse, uses)
        found = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        query, key, value, sinks = leaves
        reference = oracle.attention(query, key, value, mask=causal, sinks=sinks)
        expected = torch.autograd.grad(
            self.loss(reference.out, reference.lse, uses), leaves, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(found, expected)

    def test_neither_leaves_no_gradient(self) -> None:
        leaves = draw()
        out, aux = with_aux(*leaves)
        (0 * leaves[0].sum() + 0 * out.detach().sum()).backward()
        assert not leaves[0].grad.any()  # type: ignore[union-attr]
        assert leaves[1].grad is None
        assert aux.max_scores is not None
        assert not aux.max_scores.requires_grad

    def test_a_gradient_of_zero_numbers(self) -> None:
        leaves = draw()
        out = attend(*leaves)
        found = torch.autograd.grad(out, leaves, torch.zeros_like(out))
        assert not any(gradient.any() for gradient in found)

    def test_the_lse_of_rows_that_see_nothing_sends_nothing(self) -> None:
        leaves = draw()[:3]
        _, aux = with_aux(*leaves, mask_mod=lambda b, h, q_idx, kv_idx: (q_idx >= 4) & (kv_idx <= q_idx))
        assert aux.lse is not None
        found = torch.autograd.grad(aux.lse, leaves, torch.ones_like(aux.lse), materialize_grads=True)
        assert all(gradient.isfinite().all() for gradient in found)
        assert not found[0][:, :, :4].any()
        assert found[0][:, :, 4:].any()


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda like: torch.ones((), dtype=like.dtype).expand_as(like),
    "expanded over heads": lambda like: torch.randn_like(like[:, :1]).expand_as(like),
    "transposed": lambda like: torch.randn_like(like).transpose(1, 2).contiguous().transpose(1, 2),
    "last dimension first": lambda like: torch.randn(*like.shape[::-1]).permute(3, 2, 1, 0),
    "every other": lambda like: torch.randn(*like.shape[:3], 2 * like.shape[3])[..., ::2],
    "in the midst": lambda like: torch.randn(like.numel() + 3)[3:].view_as(like),
}


class TestLayouts:
    @pytest.mark.parametrize("of", ["out", "lse"])
    @pytest.mark.parametrize("form", GRADIENTS)
    def test_gradients_that_come_in_any_form(self, form: str, of: str) -> None:
        leaves = draw()
        out, aux = with_aux(*leaves)
        assert aux.lse is not None
        result = out if of == "out" else aux.lse
        grad = GRADIENTS[form](result if of == "out" else result[..., None])
        grad = grad if of == "out" else grad[..., 0]
        found = torch.autograd.grad(result, leaves, grad, retain_graph=True, materialize_grads=True)
        plain = grad.clone(memory_format=torch.contiguous_format)
        assert_bits(found, torch.autograd.grad(result, leaves, plain, materialize_grads=True))

    def test_the_querys_gradient_lies_like_the_query(self) -> None:
        query, key, value, _ = (leaf.detach() for leaf in draw())
        projected = query.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
        out = attend(projected, key, value)
        assert out.transpose(1, 2).is_contiguous()
        (found,) = torch.autograd.grad(out.square().sum(), projected)
        assert found.transpose(1, 2).is_contiguous()
        assert_bits(found, gradients(query.requires_grad_(), *draw_like(key, value))[0])

    def test_inputs_of_any_strides(self) -> None:
        leaves = draw()[:3]
        odd = [
            torch.randn(leaf.numel() * 2)[1::2]
            .view(leaf.shape[::-1])
            .permute(3, 2, 1, 0)
            .copy_(leaf.detach())
            for leaf in leaves
        ]
        assert_bits(gradients(*[each.requires_grad_() for each in odd]), gradients(*leaves))

    def test_keys_that_every_batch_shares(self) -> None:
        query, key, value, _ = draw(dtype=torch.float64)
        leaves = [query, *[each.detach()[:1].clone().requires_grad_() for each in (key, value)]]
        reference = oracle.attention(*leaves, mask=causal).out
        expected = torch.autograd.grad(reference.square().sum(), leaves)
        torch.testing.assert_close(gradients(*leaves), expected)

    @pytest.mark.parametrize("empty", ["batch", "queries", "keys"])
    def test_sizes_of_zero(self, empty: str) -> None:
        query, key, value, sinks = (leaf.detach() for leaf in draw())
        cut = {
            "batch": (query[:0], key[:0], value[:0]),
            "queries": (query[:, :, :0], key, value),
            "keys": (query, key[:, :, :0], value[:, :, :0]),
        }[empty]
        leaves = [each.clone().requires_grad_() for each in (*cut, sinks)]
        out, aux = with_aux(*leaves)
        assert aux.lse is not None
        found = torch.autograd.grad(out.sum() + aux.lse.sum(), leaves)
        assert [each.shape for each in found] == [leaf.shape for leaf in leaves]
        assert not any(each.any() for each in found[:3])
        # Where there is no key, lse is the sink.
        counted = BATCH * Q_LEN if empty == "keys" else 0
        assert_bits(found[3], torch.full((HEADS,), float(counted)))


def draw_like(*tensors: Tensor) -> list[Tensor]:
    """The same numbers as leaves."""
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


class TestSavedTensors:
    @pytest.mark.parametrize("place", range(4), ids=NAMES)
    def test_one_that_changed_raises_torchs_error(self, place: int) -> None:
        leaves = draw()
        inputs = [leaf * 1 for leaf in leaves]
        out = attend(*inputs)
        inputs[place].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()

    @pytest.mark.parametrize("which", ["out", "lse"])
    def test_an_output_that_changed_too(self, which: str) -> None:
        out, aux = with_aux(*draw())
        changed = out if which == "out" else aux.lse
        assert changed is not None
        with torch.no_grad():
            changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()

    def test_hooks_may_move_them(self) -> None:
        leaves = draw()
        expected = gradients(*leaves)
        packed: list[tuple[int, ...]] = []

        def pack(tensor: Tensor) -> Tensor:
            packed.append(tuple(tensor.shape))
            return tensor.detach().clone()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor.clone()):
            out = attend(*leaves)
        assert {tuple(leaf.shape) for leaf in leaves} < set(packed)
        assert_bits(torch.autograd.grad(out.square().sum(), leaves), expected)

    def test_nothing_else_holds_the_tensors_of_a_call(self) -> None:
        leaves = draw()
        inputs = [leaf * 1 for leaf in leaves]
        watched = [weakref.ref(one) for one in inputs]
        with torch.autograd.graph.saved_tensors_hooks(lambda one: one.detach().clone(), lambda one: one):
            out = attend(*inputs)
        del inputs
        assert [watch() for watch in watched] == [None] * len(watched)
        out.sum().backward()

    def test_graphs_that_are_dropped_leave_nothing(self) -> None:
        inputs = [leaf * 1 for leaf in draw()]
        watched = [weakref.ref(one) for one in inputs]
        out = attend(*inputs)
        del inputs, out
        assert [watch() for watch in watched] == [None] * len(watched)


class TestMasks:
    @pytest.mark.parametrize(
        "mask_mod",
        [
            document(lengths=[4, 2, 7]) & causal,
            sliding_window(3),
            lambda b, h, q_idx, kv_idx: (q_idx + h) % 3 == (kv_idx + b) % 2,
        ],
        ids=["documents", "window", "axes"],
    )
    @pytest.mark.parametrize("block", [(2, 3), (8, 4), (16, 16)], ids=str)
    def test_blocks_say_the_same_as_their_function(
        self, mask_mod: Callable[..., Tensor], block: tuple[int, int]
    ) -> None:
        leaves = draw(dtype=torch.float64)
        made = create_block_mask(mask_mod, BATCH, HEADS, Q_LEN, KV_LEN, device="cpu", BLOCK_SIZE=block)
        query, key, value, sinks = leaves
        reference = oracle.attention(query, key, value, mask=mask_mod, sinks=sinks).out
        expected = torch.autograd.grad(reference.square().sum(), leaves)
        torch.testing.assert_close(gradients(*leaves, mask_mod=None, block_mask=made), expected)

    def test_one_whose_tensor_changed_on_the_way_raises(self) -> None:
        keep = torch.ones(KV_LEN, dtype=torch.bool)
        mask = create_block_mask(
            lambda b, h, q_idx, kv_idx: keep[kv_idx], None, None, Q_LEN, KV_LEN, device="cpu"
        )
        out = attend(*draw(), mask_mod=None, block_mask=mask)
        keep[3] = False
        with pytest.raises((StaleMaskError, RuntimeError), match="keep"):
            out.sum().backward()

    def test_a_mask_mods_tensor_that_changed_raises_torchs_error(self) -> None:
        keep = torch.ones(KV_LEN, dtype=torch.bool)
        out = attend(*draw(), mask_mod=lambda b, h, q_idx, kv_idx: keep[kv_idx])
        keep[3] = False
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()

    def test_a_mask_learns_nothing(self) -> None:
        limit = torch.tensor([3.0] * HEADS, requires_grad=True)

        def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return kv_idx <= limit[h]

        with pytest.raises(ArgumentError, match=r"mask_mod must read tensors without a gradient, got limit"):
            attend(*draw(), mask_mod=mask)
        blocks = create_block_mask(mask, None, HEADS, Q_LEN, KV_LEN, device="cpu")
        with pytest.raises(
            ArgumentError, match=r"block_mask must read tensors without a gradient, got limit"
        ):
            attend(*draw(), mask_mod=None, block_mask=blocks)

    def test_an_index_of_the_gradient_alone(self) -> None:
        """The user's own backward reads a table that is too short; a forward never asks it."""
        table = torch.ones(KV_LEN - 1)

        class Peek(torch.autograd.Function):
            @staticmethod
            def forward(ctx, score, kv_idx):
                ctx.save_for_backward(kv_idx)
                return score * 1.0

            @staticmethod
            def backward(ctx, grad):
                return grad * table[ctx.saved_tensors[0]], None

        def peeking(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return Peek.apply(score, kv_idx)  # type: ignore[no-any-return]

        leaves = draw()[:3]
        hidden = gradients(*leaves, score_mod=peeking)  # the last key is, by the causal mask
        torch.testing.assert_close(hidden, gradients(*leaves))
        out = attend(*leaves, score_mod=peeking, mask_mod=None)
        with pytest.raises(IndexOutOfRangeError, match=r"has 12 entries.*index 12.*kv_idx=12"):
            out.sum().backward()


class TestHigherDerivatives:
    def test_are_refused_and_eager_has_them(self) -> None:
        leaves = draw(dtype=torch.float64)[:3]
        (first,) = torch.autograd.grad(attend(*leaves).square().sum(), leaves[0], create_graph=True)
        with pytest.raises(UnsupportedError, match=r"no gradient of its own.*backend='eager'"):
            first.sum().backward()
        torch.autograd.gradgradcheck(
            lambda *tensors: attend(*tensors, backend="eager"), [leaf[:1, :2, :2] for leaf in leaves]
        )

    def test_keeping_the_graph_of_a_gradient_is_no_harm(self) -> None:
        leaves = draw()
        made = torch.autograd.grad(attend(*leaves).square().sum(), leaves, create_graph=True)
        assert_bits([one.detach() for one in made], list(gradients(*leaves)))

    @pytest.mark.parametrize("vectorize", [False, True])
    def test_jacobian(self, vectorize: bool) -> None:
        leaves = tuple(leaf[:1, :2, :3] for leaf in draw(dtype=torch.float64)[:3])
        found, expected = (
            torch.autograd.functional.jacobian(function, leaves, vectorize=vectorize)
            for function in (attend, lambda *tensors: oracle.attention(*tensors, mask=causal).out)
        )
        torch.testing.assert_close(found, expected)

    def test_many_gradients_at_once(self) -> None:
        leaves = draw()
        out = attend(*leaves)
        grads = torch.randn(3, *out.shape)
        found = torch.autograd.grad(out, leaves, grads, is_grads_batched=True, retain_graph=True)
        each = [torch.autograd.grad(out, leaves, grad, retain_graph=True) for grad in grads]
        assert_bits(found, tuple(torch.stack(one) for one in zip(*each, strict=True)))


class TestSurroundings:
    def test_autocast_keeps_the_leaves_precision(self) -> None:
        leaves = draw()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = attend(*leaves)
        assert out.dtype is torch.bfloat16
        found = torch.autograd.grad(out.square().sum(), leaves)
        assert all(each.dtype is torch.float32 for each in found)
        *halves, sinks = (leaf.detach() for leaf in leaves)
        leaves = draw_like(*[half.bfloat16() for half in halves], sinks)
        assert_bits(list(found), [each.float() for each in gradients(*leaves)])

    def test_threads_train_side_by_side(self) -> None:
        leaves = draw()
        expected, found = gradients(*leaves), []

        def train() -> None:
            found.extend(gradients(*draw_like(*leaves)) for _ in range(20))

        threads = [threading.Thread(target=train) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 60
        for each in found:
            assert_bits(each, expected)

    @pytest.mark.parametrize("q_len", [7, 0])
    def test_a_default_device_elsewhere_changes_nothing(self, q_len: int) -> None:
        query, *others = draw()
        leaves = draw_like(query[:, :, :q_len], *others)
        slope = torch.tensor(0.3, requires_grad=True)

        def run() -> list[Tensor]:
            out, lse = attend(*leaves, score_mod=lambda s, b, h, q, kv: s + slope * (kv - q), return_lse=True)
            return [out, lse, *torch.autograd.grad((out.sum() + lse.sum()), [*leaves, slope])]

        expected = run()
        torch.set_default_device("meta")
        try:
            found = run()
        finally:
            torch.set_default_device(None)
        assert_bits(found, expected)

    def test_hooks_see_and_change_gradients(self) -> None:
        leaves = draw()
        out = attend(*leaves)
        out.register_hook(lambda grad: 2 * grad)
        leaves[1].register_hook(lambda grad: -grad)
        found = torch.autograd.grad(out, leaves, torch.ones_like(out))
        leaves = draw_like(*leaves)
        plain = attend(*leaves)
        of_query, of_key, *others = torch.autograd.grad(plain, leaves, 2 * torch.ones_like(plain))
        assert_bits(found, (of_query, -of_key, *others))

    # It warns that it slows things down.
    @pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
    def test_anomaly_detection(self) -> None:
        leaves = draw()
        with torch.autograd.detect_anomaly():
            assert_bits(gradients(*leaves), gradients(*leaves))
