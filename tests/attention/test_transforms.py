"""Derivatives in forward mode, torch.func and torch.jit.trace: right, or refused, never lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as torchs

import saccade
from saccade.attention.request import Arguments, read_request
from saccade.errors import BackendError, UnsupportedError
from saccade.masks import causal, sliding_window
from saccade.torch_ops.encoding import encode

SHAPE = (1, 2, 5, 4)

# torch's SDPA, which "auto" takes for plain and causal attention, is a loop under vmap, and torch says so.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


def draw(*shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, dtype=torch.float64)


def by_equations(
    query: Tensor, key: Tensor, value: Tensor, sinks: Tensor | None = None, gain: Tensor | None = None
) -> Tensor:
    """Causal attention with sinks and scores `s * gain[h]`."""
    scores = query @ key.transpose(-1, -2) / 2
    if gain is not None:
        scores = scores * gain[:, None, None]
    hidden = ~torch.ones(5, 5, dtype=torch.bool).tril()
    scores = scores.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(1, -1, 1, 1).expand(1, -1, 5, 1)), -1)
    return scores.softmax(-1)[..., :5] @ value


def ours(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None = None,
    gain: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    def scaled(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * gain[h]  # type: ignore[index]

    score_mod = None if gain is None else scaled
    return saccade.flex_attention(query, key, value, score_mod, mask_mod=causal, sinks=sinks, backend=backend)


@pytest.fixture(params=range(5), ids=["query", "key", "value", "sinks", "captured"])
def place(request: pytest.FixtureRequest) -> int:
    """Where the tangent is."""
    return request.param  # type: ignore[no-any-return]


def arguments() -> list[Tensor]:
    return [draw(), draw(), draw(), draw(2), draw(2)]


class TestForwardMode:
    def test_a_tangent_of_any_input(self, place: int) -> None:
        inputs = arguments()
        tangent = torch.randn_like(inputs[place])

        def tangent_of(function: Callable[..., Tensor]) -> Tensor:
            with torch.no_grad(), forward_ad.dual_level():
                dual = forward_ad.make_dual(inputs[place], tangent)
                out = function(*inputs[:place], dual, *inputs[place + 1 :])
                found = forward_ad.unpack_dual(out).tangent
            assert found is not None
            return found

        torch.testing.assert_close(tangent_of(ours), tangent_of(by_equations))

    def test_jvp(self, place: int) -> None:
        inputs = arguments()

        def moved(function: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
            def of_one(one: Tensor) -> Tensor:
                return function(*inputs[:place], one, *inputs[place + 1 :])

            return torch.func.jvp(of_one, (inputs[place],), (torch.ones_like(inputs[place]),))  # type: ignore[no-any-return]

        torch.testing.assert_close(moved(ours), moved(by_equations))

    @pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.jacrev, torch.func.hessian])
    def test_jacobians(self, transform: Callable[..., Callable[[Tensor], Tensor]]) -> None:
        x = draw()
        mine, theirs = (transform(lambda x, f=f: f(x, x, x).sum(1))(x) for f in (ours, by_equations))
        torch.testing.assert_close(mine, theirs)

    @pytest.mark.parametrize("is_causal", [False, True])
    def test_sdpa(self, is_causal: bool) -> None:
        x = draw()

        def moved(function: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
            return torch.func.jvp(lambda x: function(x, x, x, is_causal=is_causal), (x,), (x,))  # type: ignore[no-any-return]

        with sdpa_kernel(SDPBackend.MATH):
            theirs = moved(torchs)
        torch.testing.assert_close(moved(saccade.scaled_dot_product_attention), theirs)

    @pytest.mark.parametrize(
        ("backend", "reason"),
        [("cpu", "no forward-mode derivative, and a tangent"), ("sdpa", "no forward-mode derivative")],
    )
    def test_an_engine_without_says_so(self, backend: str, reason: str) -> None:
        x = draw()
        with forward_ad.dual_level(), pytest.raises(BackendError, match=reason):
            ours(forward_ad.make_dual(x, x), x, x, backend=backend)

    @pytest.mark.parametrize("engine", ["eager", "cpu"])
    def test_the_operator_refuses(self, place: int, engine: str) -> None:
        query, key, value, sinks, gain = arguments()
        made = read_request(
            Arguments(query, key, value, lambda score, b, h, q_idx, kv_idx: score * gain[h], sinks=sinks)
        )
        flat = list(encode(made.problem, made.operands, made.packed, engine))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(*[arguments()[place]] * 2)
            if place == 4:
                flat[3] = [dual]
            else:
                flat[(0, 1, 2, 9)[place]] = dual
            with torch.no_grad(), pytest.raises(UnsupportedError, match="no forward-mode derivative"):
                torch.ops.saccade.attention.default(*flat)

    def test_torch_compile_refuses(self) -> None:
        x = draw()
        torch._dynamo.reset()
        run = torch.compile(lambda x: ours(x, x, x, backend="eager"), backend="aot_eager", fullgraph=True)
        with forward_ad.dual_level(), pytest.raises(Exception, match=r"(?i)forward"):
            run(forward_ad.make_dual(x, x))
        torch._dynamo.reset()

    def test_replace_sdpa(self) -> None:
        x = draw()

        def tangent() -> Tensor:
            with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                out = torch.nn.functional.scaled_dot_product_attention(forward_ad.make_dual(x, x), x, x)
                return forward_ad.unpack_dual(out).tangent  # type: ignore[return-value]

        expected = tangent()
        with saccade.replace_sdpa(backend="eager") as taking:
            torch.testing.assert_close(tangent(), expected)
        with saccade.replace_sdpa() as passing:
            torch.testing.assert_close(tangent(), expected)
        assert (taking.taken, passing.passed_on) == (1, 1)
        assert "no forward-mode derivative" in next(iter(passing.reasons))


class TestVmap:
    @pytest.mark.parametrize("randomly", [False, True], ids=["plain", "with a score and sinks"])
    def test_is_a_loop(self, randomly: bool) -> None:
        queries, key, value, sinks, gain = draw(3, *SHAPE), *arguments()[1:]
        rest = (key, value, sinks, gain) if randomly else (key, value)
        mapped = torch.func.vmap(lambda query: ours(query, *rest))(queries)
        torch.testing.assert_close(mapped, torch.stack([ours(query, *rest) for query in queries]))

    def test_sdpa(self) -> None:
        queries, key = draw(3, *SHAPE), draw()
        run = saccade.scaled_dot_product_attention
        mapped = torch.func.vmap(lambda query: run(query, key, key, is_causal=True))(queries)
        torch.testing.assert_close(mapped, torchs(queries, key, key, is_causal=True))

    def test_the_engine_of_the_cpu_says_so(self) -> None:
        with pytest.raises(BackendError, match=r"cpu: .* torch\.func\.vmap follows torch's operations alone"):
            torch.func.vmap(lambda query: ours(query, query, query, backend="cpu"))(draw(3, *SHAPE))


# Tracing is what torch itself says not to do any more, and it warns of checks that a trace does not repeat.
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
class TestJitTrace:
    @pytest.mark.parametrize(
        "function",
        [
            lambda x: saccade.flex_attention(x, x, x),
            lambda x: saccade.flex_attention(x, x, x, mask_mod=sliding_window(2)),
            lambda x: saccade.scaled_dot_product_attention(x, x, x, is_causal=True),
        ],
        ids=["plain", "window", "sdpa"],
    )
    def test_the_trace_computes_the_same(self, function: Callable[[Tensor], Tensor]) -> None:
        traced = torch.jit.trace(function, draw())
        x = draw()
        torch.testing.assert_close(traced(x), function(x))

    def test_the_engine_of_the_cpu_says_so(self) -> None:
        with pytest.raises(BackendError, match=r"cpu: .* torch\.jit\.trace follows torch's operations alone"):
            torch.jit.trace(lambda x: ours(x, x, x, backend="cpu"), draw())
