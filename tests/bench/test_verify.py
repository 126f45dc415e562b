"""`verify_mod`: right mods pass, and each part of the library that is made wrong is found out."""

from __future__ import annotations

import math

import pytest
import torch

from saccade import errors
from saccade.backends import dense, eager, sdpa
from saccade.backends.base import Results
from saccade.bench import verify
from saccade.bench.oracle import dense_attention, mask_rows, pairwise_attention, pairwise_mask
from saccade.bench.verify import BLOCKS, SHAPES, Part, Shape, verify_mod
from saccade.ir.structure import ModKind
from saccade.masks import causal, document, sliding_window
from saccade.scores import alibi, softcap
from saccade.tracing import trace

SMALL = (Shape(1, 1, 1, 6, 6), Shape(2, 2, 1, 7, 5))
TABLE = torch.tensor([0.5, -0.5], requires_grad=True)
SLOPE = torch.tensor(0.25, requires_grad=True)


def learned(score, b, h, q_idx, kv_idx):
    return score * torch.sigmoid(TABLE[h]) - SLOPE * (q_idx - kv_idx).abs()


def rows_alone(score, b, h, q_idx, kv_idx):
    return torch.where(q_idx < 3, score, -math.inf)


def forgetful(score, b, h, q_idx, kv_idx):
    return (q_idx + kv_idx) * 0.1


class Blind(torch.autograd.Function):
    @staticmethod
    def forward(ctx, score):
        return 2 * score

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("nobody derived this")


def without_gradient(score, b, h, q_idx, kv_idx):
    # Torch cannot differentiate it; what the tracer reads can be.
    return Blind.apply(score) if isinstance(score, torch.Tensor) else 2 * score


class Steeper(torch.autograd.Function):
    """Twice the derivative of its values."""

    generate_vmap_rule = True

    @staticmethod
    def forward(score):
        return torch.tanh(score)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        (tanh,) = ctx.saved_tensors
        return 2 * grad * (1 - tanh * tanh)


def of_another_slope(score, b, h, q_idx, kv_idx):
    return 5 * Steeper.apply(score / 5)


def with_a_jump(score, b, h, q_idx, kv_idx):
    return torch.where(score > 0.25, score + 1.0, score)


def in_float32(score, b, h, q_idx, kv_idx):
    return torch.sin(score.to(torch.float32))


def checked(mod, backends=("eager",), **options):
    return verify_mod(mod, shapes=SMALL, backends=backends, **options)


class TestWhatIsRight:
    @pytest.mark.parametrize(
        "mod",
        [causal, sliding_window(2), document(lengths=[3, 3, 1]), softcap(2.0), forgetful],
        ids=lambda mod: getattr(mod, "__name__", repr(mod)),
    )
    def test_it_passes_forward_and_gradients(self, mod) -> None:
        found = checked(mod)
        assert found.passed
        assert found.remarks == ()
        for check in found.checks:
            assert check.told() == ""
            if check.backend == "eager":
                assert [part.name for part in check.gradients] == ["query", "key", "value"]

    def test_what_the_function_captured_has_its_gradient_checked_by_name(self) -> None:
        found = checked(learned)
        assert found.kind is ModKind.SCORE
        for check in found.checks:
            assert {part.name for part in check.gradients} == {"query", "key", "value", "TABLE", "SLOPE"}
            assert check.is_right

    def test_a_derivative_that_is_not_the_slope_is_remarked_on_and_followed(self) -> None:
        found = checked(of_another_slope)
        assert found.passed
        (remark,) = found.remarks
        assert remark.startswith("the function's own derivative is not the slope of its values")

    @pytest.mark.parametrize("mod", [softcap(2.0, approximate=True), with_a_jump, in_float32, rows_alone])
    def test_jumps_rounding_and_approximations_are_not_remarked_on(self, mod) -> None:
        assert verify_mod(mod, backends=["eager"]).remarks == ()

    def test_rows_that_see_nothing(self) -> None:
        assert checked(rows_alone).passed
        assert checked(alibi(n_heads=2), mask_mod=sliding_window(2)).passed

    def test_a_mask_has_its_blocks_checked_too(self) -> None:
        assert [check.backend for check in checked(causal).checks] == [BLOCKS, "eager"] * 2
        assert [check.backend for check in checked(softcap(1.0)).checks] == ["eager"] * 2

    def test_refusals_are_told_and_are_no_faults(self) -> None:
        found = checked(causal, ["sdpa", "eager"])
        square, wide = (check for check in found.checks if check.backend == "sdpa")
        assert square.was_run
        assert not wide.was_run
        assert wide.refusals[0].startswith("its only patterns are no mask and causal")
        assert found.passed

    def test_a_backend_without_gradients_is_checked_forward(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reasons = lambda self, problem: ["it has no gradient"] if problem.needs_grad else []  # noqa: E731
        monkeypatch.setattr(sdpa.SdpaBackend, "unsupported_reasons", reasons)
        check = verify_mod(causal, shapes=SMALL[:1], backends=["sdpa"]).checks[1]
        assert check.output is not None
        assert check.gradients == ()
        assert check.refusals == ("with gradients: it has no gradient",)
        assert check.is_right

    def test_every_backend_is_asked_by_default_and_steps_are_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verify, "candidates", lambda device: ("sdpa", "eager"))
        steps: list[str] = []
        verify_mod(softcap(3.0), shapes=SMALL[:1], progress=steps.append)
        assert steps == ["B1 H1 6×6: the oracle", "B1 H1 6×6: sdpa", "B1 H1 6×6: eager"]


class TestWhatIsWrong:
    """Each fault is put where it could arise; the oracle must share none of them."""

    def test_a_backend_that_is_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attend = dense.DenseAttention.__call__

        def off(kernel, operands):
            results = attend(kernel, operands)
            return Results(results.out * (1 + 1e-4))

        monkeypatch.setattr(dense.DenseAttention, "__call__", off)
        found = checked(causal)
        assert not found.passed
        wrong = [check for check in found.checks if not check.is_right]
        assert {check.backend for check in wrong} == {"eager"}
        assert "the output is off by" in wrong[0].told()

    def test_a_backend_whose_gradient_is_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attend = dense.DenseAttention.__call__

        def off(kernel, operands):
            results = attend(kernel, operands)
            # The same output, and a gradient of the query that misses a part.
            return Results(results.out + 1e-3 * (operands.query.detach() - operands.query).sum())

        monkeypatch.setattr(dense.DenseAttention, "__call__", off)
        for check in checked(softcap(2.0)).checks:
            assert check.output is not None
            assert check.output.is_right
            assert check.told().startswith("the gradient of query is off by")

    def test_a_backend_that_gives_nan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            dense.DenseAttention,
            "__call__",
            lambda kernel, operands: Results(operands.query[..., :8] * math.nan),
        )
        assert "the output is off by nan" in checked(softcap(2.0)).checks[0].told()

    def test_a_backend_that_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self, problem, schedule):
            raise RuntimeError("no such\n  instruction " + 400 * "x")

        monkeypatch.setattr(eager.EagerBackend, "compile", broken)
        found = checked(causal)
        assert not found.passed
        assert found.checks[1].told().startswith("RuntimeError: no such instruction xxx")
        assert len(found.checks[1].told()) < 340

    def test_a_tracer_that_reads_something_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The mod acts differently on what the tracer calls it with, as after a wrong rule."""

        def two_faced(b, h, q_idx, kv_idx):
            return q_idx >= kv_idx if isinstance(q_idx, torch.Tensor) else q_idx > kv_idx

        found = checked(two_faced)
        blocks, attention = found.checks[:2]
        assert "the masks differ in 6 of 36 pairs, first at b=0, h=0, q_idx=0, kv_idx=0" in blocks.told()
        assert "the output is off by" in attention.told()

    def test_blocks_that_cannot_be_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args, **options):
            raise errors.ArgumentError("no blocks today")

        monkeypatch.setattr(verify, "create_block_mask", broken)
        assert checked(causal).checks[0].told() == "ArgumentError: no blocks today"


class TestWhatCannotBeChecked:
    def test_a_function_without_a_gradient_is_checked_forward(self) -> None:
        found = checked(without_gradient)
        assert found.passed
        assert found.remarks == (
            "the function has no gradient, so none is checked: NotImplementedError: nobody derived this",
        )
        assert all(check.output is not None and check.gradients == () for check in found.checks)

    def test_a_function_that_fails_at_a_shape_is_checked_at_the_others(self) -> None:
        ids = torch.zeros(6, dtype=torch.long)
        found = checked(lambda b, h, q_idx, kv_idx: ids[q_idx] == ids[kv_idx])
        assert found.passed
        assert {check.shape for check in found.checks} == {SMALL[0]}
        assert found.remarks[0].startswith(
            "B2 H2/1 7×5: the function itself fails: IndexError: index 6 is out"
        )

    def test_nothing_checked_is_not_passed(self) -> None:
        ids = torch.zeros(2, dtype=torch.long)
        assert not checked(lambda b, h, q_idx, kv_idx: ids[q_idx] == 0).passed
        assert not verify_mod(softcap(2.0), shapes=SMALL, backends=["sdpa"]).passed

    def test_a_program_is_refused(self) -> None:
        with pytest.raises(errors.ArgumentError, match="expected the function itself, got a Program"):
            verify_mod(trace(causal))

    def test_two_masks_are_refused(self) -> None:
        with pytest.raises(errors.ArgumentError, match="verify their combination"):
            verify_mod(causal, mask_mod=causal)

    def test_an_unknown_backend_is_refused(self) -> None:
        with pytest.raises(errors.ArgumentError, match=r"backends must be among 'cpu', 'sdpa'.*, got warp"):
            verify_mod(causal, backends=["warp"])

    def test_what_is_no_mod_is_refused(self) -> None:
        with pytest.raises(errors.ModError, match="call it first"):
            verify_mod(sliding_window)

    @pytest.mark.parametrize("sizes", [(0, 1, 1, 4, 4), (1, 3, 2, 4, 4)])
    def test_shapes_that_do_not_fit(self, sizes: tuple[int, ...]) -> None:
        with pytest.raises(
            errors.ArgumentError, match="expected sizes of 1 or more, and as many query heads"
        ):
            Shape(*sizes)


def test_nan_is_never_right() -> None:
    assert not Part("output", math.nan, 1.0).is_right
    assert Part("output", 0.0, 0.0).is_right


def test_the_usual_shapes_are_square_odd_and_grouped() -> None:
    assert any(shape.q_len == shape.kv_len for shape in SHAPES)
    assert any(
        shape.q_len % 2 and shape.kv_len % 2 and shape.q_heads > shape.kv_heads > 1 for shape in SHAPES
    )
    assert any(shape.q_len > shape.kv_len for shape in SHAPES)


class TestThePairwiseOracle:
    def test_it_agrees_with_the_dense_one(self) -> None:
        generator = torch.Generator().manual_seed(1)
        query, key, value = (torch.randn(2, 3, size, 4, generator=generator) for size in (5, 7, 7))
        visible = pairwise_mask(sliding_window(3), (2, 3, 5, 7), torch.device("cpu"))
        assert torch.equal(visible[1, 2], mask_rows(sliding_window(3), 1, 2, range(5), 7))
        options = {"score_mod": alibi(n_heads=3), "dtype": torch.float64}
        mine = pairwise_attention(query, key, value, visible=visible, **options)
        other = dense_attention(query, key, value, mask_mod=sliding_window(3), rows=range(5), **options)
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)

    def test_functions_that_do_not_broadcast_are_asked_what_they_mean(self) -> None:
        table = torch.tensor([[[1, 0], [0, 1]], [[1, 1], [0, 0]]], dtype=torch.bool)
        visible = pairwise_mask(lambda b, h, q, kv: table[b][h][kv], (2, 2, 3, 2), torch.device("cpu"))
        assert torch.equal(visible, table[:, :, None].expand(2, 2, 3, 2))

    def test_heads_of_a_group_share_a_key_head_and_hidden_pairs_are_not_asked(self) -> None:
        query, value = torch.zeros(1, 4, 2, 2), torch.tensor([[[[1.0]], [[2.0]]]])
        visible = torch.tensor([True, True, False, True])[None, :, None, None].expand(1, 4, 2, 1)

        def guarded(score, b, h, q_idx, kv_idx):
            assert h != 2
            return score

        found = pairwise_attention(
            query, query[:, :2, :1], value, visible=visible, score_mod=guarded, dtype=torch.float64
        )
        assert found[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0, 2.0]
