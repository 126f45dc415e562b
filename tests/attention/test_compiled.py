"""flex_attention inside torch.compile: no graph break, the same result, and whatever changes is seen."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import saccade
from catalogue import CATALOGUE, Case, Sizes
from saccade import AuxRequest, BlockMask, create_block_mask, flex_attention
from saccade.errors import StaleMaskError
from saccade.masks import causal, document, shift, sliding_window
from saccade.scores import alibi

ENGINES = ["eager"]
COMPILERS = ["eager", "aot_eager"]
SIZES = Sizes(q_len=7, kv_len=9, batch=2, heads=4)

# What Dynamo does to a custom autograd.Function that a score applies.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated. Methods on autograd functions are all static:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def compiled(
    function: Callable[..., object], backend: object = "aot_eager", **options: object
) -> Callable[..., object]:
    return torch.compile(function, fullgraph=True, backend=backend, **options)  # type: ignore[call-overload, no-any-return]


def draw(
    q_len: int = 7, kv_len: int = 9, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((2, 4, q_len, 6), (2, 2, kv_len, 6), (2, 2, kv_len, 5))
    query, key, value = (torch.randn(shape, dtype=dtype) for shape in shapes)
    return query, key, value


@pytest.mark.parametrize("dynamic", [None, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", CATALOGUE, ids=str)
def test_the_whole_catalogue(case: Case, engine: str, dynamic: bool | None) -> None:
    inputs, mods = draw(), case.build(SIZES)
    options = {"mask_mod": mods.mask, "enable_gqa": True, "return_lse": True, "backend": engine}
    expected = flex_attention(*inputs, mods.score, **options)  # type: ignore[call-overload]
    found = compiled(flex_attention, dynamic=dynamic)(*inputs, mods.score, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("case", [case for case in CATALOGUE if case.build(SIZES).mask is not None], ids=str)
def test_prebuilt_block_masks(case: Case) -> None:
    inputs, mods = draw(), case.build(SIZES)
    assert mods.mask is not None
    block_mask = create_block_mask(mods.mask, 2, 4, 7, 9, device="cpu", BLOCK_SIZE=(2, 3))
    options = {"block_mask": block_mask, "enable_gqa": True, "backend": "eager"}
    expected = flex_attention(*inputs, mods.score, **options)  # type: ignore[call-overload]
    found = compiled(flex_attention)(*inputs, mods.score, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_everything_at_once(compiler: str) -> None:
    inputs, sinks = draw(), torch.randn(4, dtype=torch.float64)
    block_mask = create_block_mask(document(lengths=[4, 5]), None, None, 7, 9, device="cpu", BLOCK_SIZE=2)

    def run(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, aux = flex_attention(
            query,
            key,
            value,
            alibi(n_heads=4),
            block_mask,
            scale=0.7,
            enable_gqa=True,
            return_aux=AuxRequest(lse=True, max_scores=True),
            mask_mod=sliding_window(4),
            sinks=sinks,
            backend="eager",
        )
        assert aux.lse is not None
        assert aux.max_scores is not None
        return 2 * out, aux.lse, aux.max_scores

    torch.testing.assert_close(compiled(run, compiler)(*inputs), run(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_sdpa_stays_torchs_own_operation(compiler: str) -> None:
    query = torch.randn(1, 2, 8, 4)

    def run(query: Tensor) -> Tensor:
        return flex_attention(query, query, query, mask_mod=causal, backend="sdpa")

    torch.testing.assert_close(compiled(run, compiler)(query), run(query))
    with torch.enable_grad():
        wanting = query.clone().requires_grad_()
        (found,) = torch.autograd.grad(compiled(run, compiler)(wanting).sum(), wanting)  # type: ignore[attr-defined]
        (expected,) = torch.autograd.grad(run(wanting).sum(), wanting)
    torch.testing.assert_close(found, expected)


class Attention(nn.Module):
    """A model whose parameters and buffers a score reads."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)
        self.slopes = nn.Parameter(torch.randn(2))
        self.register_buffer("ids", torch.tensor([0, 0, 1, 1, 1, 2]))
        self.window = 3

    def tilted(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        score += self.slopes[h] * abs(q_idx - kv_idx)
        return score

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)

        def near(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return ~(self.ids[q_idx] != self.ids[kv_idx]) & (q_idx - kv_idx < self.window)

        out = flex_attention(query, key, value, self.tilted, mask_mod=near, backend="eager")
        return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_model_sees_changed_parameters_buffers_and_numbers(compiler: str) -> None:
    model, x = Attention(), torch.randn(2, 6, 8)
    run = compiled(model, compiler)
    torch.testing.assert_close(run(x), model(x))
    before = model(x)
    model.slopes.add_(1.0)
    torch.testing.assert_close(run(x), model(x))
    model.ids.copy_(torch.tensor([0, 1, 1, 2, 2, 2]))
    torch.testing.assert_close(run(x), model(x))
    model.window = 2
    torch.testing.assert_close(run(x), model(x))
    assert not torch.equal(before, model(x))


def test_a_changed_closure_is_seen_and_recompiles_at_most_once() -> None:
    query, table, counter = torch.randn(1, 2, 6, 4), torch.randn(2), CompileCounter()
    window = 2

    def run(query: Tensor) -> Tensor:
        def tilted(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score * table[h]

        def near(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return (q_idx == kv_idx + window) | (q_idx - kv_idx < window)

        return flex_attention(query, query, query, tilted, mask_mod=near, backend="eager")

    fast = compiled(run, counter)
    for window in (2, 3, 4, 5):  # noqa: B007 - the closure reads it
        for _ in range(2):
            table.mul_(-1.5)
            torch.testing.assert_close(fast(query), run(query))
    assert counter.frame_count == 2  # for the number itself, then for any


def test_growing_lengths_and_offsets_compile_twice() -> None:
    counter = CompileCounter()

    def step(query: Tensor, key: Tensor, offset: int) -> Tensor:
        return flex_attention(query, key, key, mask_mod=shift(causal, q=offset), backend="eager")

    fast = compiled(step, counter)
    for length in range(5, 12):
        query, key = torch.randn(1, 2, 1, 4), torch.randn(1, 2, length, 4)
        torch.testing.assert_close(fast(query, key, length - 1), step(query, key, length - 1))
    assert counter.frame_count == 2


MADE_FROM = {
    "captured": lambda pads: lambda b, h, q_idx, kv_idx: pads[b, kv_idx],
    "made on the way": lambda pads: lambda b, h, q_idx, kv_idx: (~pads)[b, kv_idx],
}


@pytest.mark.parametrize("engine", ["eager", "cpu"])
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("made_from", MADE_FROM.values(), ids=MADE_FROM.keys())
def test_a_stale_block_mask_raises(
    made_from: Callable[[Tensor], Callable[..., Tensor]], compiler: str, engine: str
) -> None:
    pads = torch.tensor([[True, False, False, True]] * 2)
    pads[1, 1] = True  # the count of its writes is above 0 from the start
    mask = create_block_mask(made_from(pads), 2, None, 4, 4, device="cpu", BLOCK_SIZE=2)
    query = torch.randn(2, 1, 4, 4)
    run = compiled(
        lambda query, mask: flex_attention(query, query, query, block_mask=mask, backend=engine), compiler
    )
    expected = flex_attention(query, query, query, block_mask=mask, backend=engine)
    for _ in range(2):
        torch.testing.assert_close(run(query, mask), expected)
    pads.logical_not_()
    for _ in range(2):
        with pytest.raises(StaleMaskError, match=r"'pads' \(bool\[2, 4\]\) has changed since"):
            run(query, mask)
    mask = mask.refreshed()
    torch.testing.assert_close(
        run(query, mask), flex_attention(query, query, query, block_mask=mask, backend=engine)
    )
    pads.logical_not_()
    torch._dynamo.reset()
    with pytest.raises(StaleMaskError, match="'pads'"):  # at the first call too
        run(query, mask)


def test_an_exported_graph_has_tensors_of_its_own() -> None:
    document_of = torch.tensor([0, 0, 1, 1])
    document_of.add_(1)
    mask = create_block_mask(
        lambda b, h, q_idx, kv_idx: document_of[q_idx] == document_of[kv_idx], None, None, 4, 4, device="cpu"
    )
    model, query = Blocked(mask), torch.randn(1, 1, 4, 4)
    expected = model(query)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (query,)), file)
    document_of.add_(1)
    loaded = torch.export.load(io.BytesIO(file.getvalue())).module()
    torch.testing.assert_close(loaded(query), expected)


class Blocked(nn.Module):
    def __init__(self, mask: BlockMask) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, query: Tensor) -> Tensor:
        return flex_attention(query, query, query, block_mask=self.mask)


def test_new_masks_of_one_program_do_not_recompile() -> None:
    counter = CompileCounter()
    query = torch.randn(1, 2, 32, 4)
    fast = compiled(flex_attention, counter)
    for window in (3, 5, 9, 17, 31):
        block_mask = create_block_mask(sliding_window(window), None, None, 32, 32, device="cpu", BLOCK_SIZE=4)
        expected = flex_attention(query, query, query, block_mask=block_mask, backend="eager")
        found = fast(query, query, query, block_mask=block_mask, backend="eager")
        torch.testing.assert_close(found, expected)
    assert counter.frame_count <= 3  # for the first, for any number, for any count of runs


def test_programs_are_mods_here_too() -> None:
    table, inputs = torch.randn(4, dtype=torch.float64), draw()
    program = saccade.trace(lambda score, b, h, q_idx, kv_idx: score * table[h])

    def doubled(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return 2 * program(score, b, h, q_idx, kv_idx)

    for score_mod in (program, doubled):
        options = {"score_mod": score_mod, "enable_gqa": True, "backend": "eager"}
        torch.testing.assert_close(
            compiled(flex_attention)(*inputs, **options),
            flex_attention(*inputs, **options),  # type: ignore[call-overload]
        )


def test_autocast() -> None:
    query = torch.randn(1, 2, 8, 4)

    def run(query: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return flex_attention(query, query, query, mask_mod=sliding_window(3), backend="eager")

    found = compiled(run)(query)
    assert found.dtype is torch.bfloat16  # type: ignore[attr-defined]
    torch.testing.assert_close(found, run(query), rtol=0, atol=0)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_dropout_draws_anew_at_every_call_and_repeats_with_the_seed(compiler: str) -> None:
    query = torch.randn(1, 2, 16, 4)
    run = compiled(
        lambda query: flex_attention(query, query, query, dropout_p=0.5, backend="eager"), compiler
    )
    torch.manual_seed(1)
    first, second = run(query), run(query)
    assert not torch.equal(first, second)  # type: ignore[arg-type]
    torch.manual_seed(1)
    torch.testing.assert_close(run(query), first, rtol=0, atol=0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ on the PATH")
def test_inductor() -> None:
    model, x = Attention(), torch.randn(2, 6, 8)
    torch.testing.assert_close(compiled(model, "inductor")(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"enable_gqa": False}, "pass enable_gqa=True"),
        ({"dropout_p": 2.0}, r"dropout_p must be in \[0, 1\]"),
        ({"return_aux": AuxRequest(weights=True)}, "returns no weights"),
        ({"mask_mod": lambda b, h, q_idx, kv_idx: torch.sort(q_idx)}, "has no meaning in a mod"),
        ({"mask_mod": lambda b, h, q_idx, kv_idx: q_idx > 3 and kv_idx > 2}, "branching"),
        ({"block_mask": torch.ones(7, 9)}, "block_mask must be a BlockMask or None"),
        ({"backend": "flex_attention", "mask_mod": causal}, "is a traced Program"),
    ],
)
def test_refusals_reach_the_user(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(Exception, match=message):
        compiled(flex_attention)(*draw(), **{"enable_gqa": True, "backend": "eager", **arguments})


def test_torchs_own_mask_is_refused() -> None:
    inputs = draw()
    block_mask = create_block_mask(causal, None, None, 7, 9, device="cpu").to_torch()
    with pytest.raises(Exception, match=r"BlockMask\.from_torch"):
        compiled(flex_attention)(*inputs, block_mask=block_mask, enable_gqa=True)
