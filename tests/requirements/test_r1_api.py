"""R1, the interface: names, signatures, BlockMask, kernels compiled once, and what a call returns."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import torch
import torch._dynamo
import torch.nn.attention.flex_attention as torch_flex
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import oracle
import saccade
from requirements.agreement import ENGINES, assert_equal_to_dense, draw
from saccade import (
    AuxRequest,
    BlockMask,
    alibi,
    and_masks,
    causal,
    create_block_mask,
    create_block_mask_cached,
    create_mask,
    document,
    flex_attention,
    noop_mask,
    or_masks,
    prefix_lm,
    sliding_window,
)
from saccade.backends.cpu.kernels import KERNELS
from saccade.bench import calculate_tflops

POSITIONAL, KEYWORD = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY


def parameters(function: object) -> list[tuple[str, object, object]]:
    """Name, default and kind of each."""
    found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return [(one.name, one.default, one.kind) for one in found]


def as_given(*names: str, **defaults: object) -> list[tuple[str, object, object]]:
    required = [(name, inspect.Parameter.empty, POSITIONAL) for name in names]
    return required + [(name, default, POSITIONAL) for name, default in defaults.items()]


def test_the_signature_of_flex_attention() -> None:
    """'`flex_attention(query, key, value, score_mod=None, block_mask=None, ...*, return_aux=None)`'"""
    expected = as_given(
        "query",
        "key",
        "value",
        score_mod=None,
        block_mask=None,
        scale=None,
        enable_gqa=False,
        return_lse=False,
        kernel_options=None,
    )
    found = parameters(flex_attention)
    assert found[:10] == [*expected, ("return_aux", None, KEYWORD)]
    # Whatever else there is, is by keyword and may be left out.
    assert all(kind is KEYWORD and default is not inspect.Parameter.empty for _, default, kind in found[10:])


def test_the_signatures_of_the_functions_that_make_masks() -> None:
    """'`create_mask(mod, B, H, Q_LEN, KV_LEN, device)`, `create_block_mask_cached(...)`'"""
    names = [name for name, *_ in parameters(create_block_mask)]
    assert names[1:8] == ["B", "H", "Q_LEN", "KV_LEN", "device", "BLOCK_SIZE", "_compile"]
    defaults = {name: default for name, default, _ in parameters(create_block_mask)}
    assert (defaults["device"], defaults["BLOCK_SIZE"]) == (None, 128)
    assert [name for name, *_ in parameters(create_mask)][1:] == ["B", "H", "Q_LEN", "KV_LEN", "device"]
    assert [name for name, *_ in parameters(create_block_mask_cached)] == [
        "mod",
        "B",
        "H",
        "M",
        "N",
        "device",
    ]
    assert [name for name, *_ in parameters(calculate_tflops)] == ["flops", "time_ms", "multiplier"]


def test_all_ten_names_of_torch_and_the_default_block_size() -> None:
    """'all ten names of torch's `__all__` and `_DEFAULT_SPARSE_BLOCK_SIZE` (128)'"""
    names = (
        "BlockMask flex_attention AuxOutput AuxRequest FlexKernelOptions create_block_mask create_mask "
        "or_masks and_masks noop_mask"
    )
    assert sorted(torch_flex.__all__) == sorted(names.split())
    assert set(names.split()) <= set(saccade.__all__)
    assert all(hasattr(saccade, name) for name in names.split())
    assert saccade._DEFAULT_SPARSE_BLOCK_SIZE == torch_flex._DEFAULT_SPARSE_BLOCK_SIZE == 128


def test_create_mask_of_a_mask_and_of_a_score() -> None:
    """'dense bool; accepts a score_mod too: True where the modified zero score is not −inf'"""
    lower = torch.ones(5, 7, dtype=torch.bool).tril()

    def causal_score(score, b, h, q_idx, kv_idx):
        return torch.where(q_idx >= kv_idx, score - 3.0, -float("inf"))

    for mod in (lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, causal_score):
        found = create_mask(mod, 2, 3, 5, 7, "cpu")
        assert found.dtype is torch.bool
        assert found.shape == (2, 3, 5, 7)
        assert torch.equal(found, lower.expand(2, 3, 5, 7))
    assert create_mask(alibi(n_heads=3), 1, 3, 5, 7, "cpu").all()


def test_masks_are_combined() -> None:
    """'`and_masks`, `or_masks`, `noop_mask`'"""
    first, second = prefix_lm(3), sliding_window(2)
    one, other, all_of, any_of, everything = (
        create_mask(mask, None, None, 6, 6, "cpu")
        for mask in (first, second, and_masks(first, second), or_masks(first, second), noop_mask)
    )
    assert torch.equal(all_of, one & other)
    assert torch.equal(any_of, one | other)
    assert everything.all()


def test_block_sizes_by_their_own_names() -> None:
    """'`Q_BLOCK_SIZE` / `KV_BLOCK_SIZE` accepted'"""
    mask = create_block_mask(causal, None, None, 256, 256, "cpu", Q_BLOCK_SIZE=32, KV_BLOCK_SIZE=64)
    assert mask.BLOCK_SIZE == (32, 64)
    assert mask.to_dense().shape == (1, 1, 8, 4)


@pytest.mark.parametrize("compile_it", [True, False])
def test_compile_is_accepted_without_effect(compile_it: bool) -> None:
    """'`_compile` is accepted and needs no effect' (R0)"""
    made = create_block_mask(causal, None, None, 300, 300, device="cpu", BLOCK_SIZE=128, _compile=compile_it)
    assert made == create_block_mask(causal, None, None, 300, 300, device="cpu")


def test_a_block_mask_is_printed_by_its_blocks() -> None:
    """'`to_string()`, `print` with ██ full, ░░ partial, blank empty'"""
    mask = create_block_mask(causal, None, None, 512, 512, "cpu")
    rows = ["░░      ", "██░░    ", "████░░  ", "██████░░"]
    assert mask.to_string().splitlines() == ["(0, 0)", *rows]
    printed = str(mask).splitlines()
    assert printed[0].strip() == "BlockMask(shape=(1, 1, 512, 512), sparsity=37.50%,"
    assert printed[1:] == ["(0, 0)", *rows, ")"]


def test_sparsity_is_in_percent_and_to_dense_is_by_block() -> None:
    """'`BlockMask` (`sparsity()` in percent, `to_dense()`, ...'"""
    mask = create_block_mask(causal, None, None, 512, 512, "cpu")
    assert mask.sparsity() == 37.5
    blocks = mask.to_dense()
    assert blocks.shape == (1, 1, 4, 4)
    assert blocks[0, 0].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    "attribute",
    ["shape", "seq_lengths", "BLOCK_SIZE"]
    + [
        f"{kind}{side}_{what}"
        for kind in ("", "full_")
        for side in ("kv", "q")
        for what in ("num_blocks", "indices")
    ],
)
def test_attributes_of_a_block_mask_are_torchs(attribute: str) -> None:
    arguments = (causal & document(lengths=[100, 200, 212]), None, None, 512, 512, "cpu", 64)
    mine = getattr(create_block_mask(*arguments), attribute)
    theirs = getattr(torch_flex.create_block_mask(*arguments), attribute)
    if isinstance(theirs, Tensor):
        # Torch leaves what is past the count as it falls.
        counts = attribute.replace("indices", "num_blocks")
        listed = torch.arange(8) < getattr(torch_flex.create_block_mask(*arguments), counts)[..., None]
        keep = listed if attribute.endswith("indices") else torch.ones_like(theirs, dtype=torch.bool)
        assert mine.dtype is theirs.dtype
        assert torch.equal(torch.where(keep, mine, 0), torch.where(keep, theirs, 0))
    else:
        assert tuple(mine) == tuple(theirs)


def test_create_block_mask_cached_gives_the_same_object() -> None:
    """'`create_block_mask_cached(mod, B, H, M, N, device)`'"""

    def banded(b, h, q_idx, kv_idx):
        return (q_idx - kv_idx).abs() < 100

    first = create_block_mask_cached(banded, 1, 1, 1024, 1024, device="cpu")
    assert create_block_mask_cached(banded, 1, 1, 1024, 1024, device="cpu") is first
    assert create_block_mask_cached(banded, 1, 1, 1024, 2048, device="cpu") is not first
    assert first == create_block_mask(banded, 1, 1, 1024, 1024, device="cpu")


def test_calculate_tflops_gives_the_texts_rates() -> None:
    """The orientation: 'noop: causal FA2 14.65 ms / 150.1 TFLOP/s forward, 41.20 / 133.4 backward; ...'

    FLOPs = density · 4 · B·H·S²·D forward, · 10 backward; density 0.5 in the causal flash row, 1 elsewhere.
    """
    work = 16 * 16 * 8192**2 * 64
    rows = [
        (0.5, (14.65, 150.1), (41.20, 133.4)),  # causal FA2
        (1.0, (58.80, 74.8), (125.07, 87.9)),  # SDPA + mask
        (1.0, (27.34, 160.8), (94.40, 116.5)),  # flex
    ]
    for density, forward, backward in rows:
        for multiplier, (time_ms, rate) in ((4, forward), (10, backward)):
            assert calculate_tflops(density * work, time_ms, multiplier) == pytest.approx(rate, abs=0.1)


def test_changing_a_block_mask_compiles_no_kernel() -> None:
    """'Changing a block mask must not recompile a kernel'"""
    tensors = draw(*[(1, 2, 192, 16)] * 3)

    def documents(ids: Tensor, window: int):
        def mask(b, h, q_idx, kv_idx):
            return (ids[q_idx] == ids[kv_idx]) & (q_idx >= kv_idx) & (q_idx - kv_idx < window)

        return mask

    builds = []
    for cuts, window, block in (([60], 100, 32), ([10, 20, 150], 100, 32), ([], 7, 64), ([96], 192, 128)):
        ids = torch.bucketize(torch.arange(192), torch.tensor(cuts), right=True)
        mask = documents(ids, window)
        blocks = create_block_mask(mask, None, None, 192, 192, "cpu", block)
        assert_equal_to_dense(tensors, "cpu", mask=mask, mask_mod=None, block_mask=blocks)
        builds.append(KERNELS.builds)
    assert len(set(builds)) == 1, builds


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_torch_compile_of_flex_attention_as_the_text_writes_it() -> None:
    """'`torch.compile(flex_attention)` as the text writes it works', forward and backward, masks changing.

    The graph goes through torch's tracer and autograd; which code it writes for the rest is no matter here.
    """
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(flex_attention, backend=counter)
    query, key, value = draw(*[(1, 2, 128, 16)] * 3)
    slope = torch.tensor([0.25, 0.5])
    builds = []

    def tilt(score, b, h, q_idx, kv_idx):
        return score + slope[h] * (kv_idx - q_idx)

    for lengths in ([128], [50, 78], [3, 60, 65], [31, 32, 33, 32]):
        mask = causal & document(lengths=lengths)
        blocks = create_block_mask(mask, None, None, 128, 128, "cpu", 32)
        out = compiled(query, key, value, score_mod=tilt, block_mask=blocks)
        expected = oracle.attention(query, key, value, mask=mask, score=tilt).out
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
        weight = torch.linspace(-1, 1, out.numel()).view_as(out)
        mine, theirs = (
            torch.autograd.grad((one * weight).sum(), (query, key, value)) for one in (out, expected)
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        builds.append(KERNELS.builds)
    assert len(set(builds)) == 1, builds
    assert counter.frame_count <= 2  # for the first mask, and for one of any size


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lse_is_float32_of_shape_b_h_q(engine: str, dtype: torch.dtype) -> None:
    """'lse written in float32 `[B,H,Q]`'"""
    query, key, value = draw((2, 4, 24, 16), (2, 2, 40, 16), (2, 2, 40, 16), dtype=dtype)
    with torch.no_grad():
        out, lse = flex_attention(query, key, value, enable_gqa=True, return_lse=True, backend=engine)
        again, aux = flex_attention(
            query, key, value, enable_gqa=True, return_aux=AuxRequest(lse=True), backend=engine
        )
    assert out.dtype is dtype
    assert lse.dtype is torch.float32
    assert lse.shape == (2, 4, 24)
    assert torch.equal(out, again)
    assert torch.equal(lse, aux.lse)
    expected = oracle.attention(query, key, value)
    torch.testing.assert_close(lse.double(), expected.lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_scale_and_enable_gqa(engine: str) -> None:
    """'`scale=None, enable_gqa=False`': 1/√D unless given; heads of keys serve groups of query heads"""
    query, key, value = (each.detach() for each in draw((1, 4, 9, 16), (1, 2, 9, 16), (1, 2, 9, 16)))
    for scale in (None, 0.7):
        out = flex_attention(query, key, value, scale=scale, enable_gqa=True, backend=engine)
        expected = oracle.attention(query, key, value, scale=0.25 if scale is None else scale).out
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="enable_gqa"):
        flex_attention(query, key, value, backend=engine)


@pytest.mark.parametrize(
    "options",
    [
        {"ROWS_GUARANTEED_SAFE": True},
        {"PRESCALE_QK": True},
        {"BLOCK_M": 32, "BLOCK_N": 64},
        {"BLOCK_M1": 32, "BLOCK_N1": 64, "BLOCK_M2": 64, "BLOCK_N2": 32},
    ],
    ids=str,
)
def test_kernel_options_change_no_result(options: dict[str, object]) -> None:
    """'`kernel_options` (ROWS_GUARANTEED_SAFE, PRESCALE_QK, tile sizes, BACKEND ...)'"""
    assert_equal_to_dense(draw(*[(1, 2, 70, 16)] * 3), "cpu", mask=causal, kernel_options=options)


def test_kernel_options_name_a_backend() -> None:
    """'BACKEND': one of torch's names, or one of this library's"""
    query, key, value = draw(*[(1, 1, 8, 8)] * 3)
    for name in ("cpu", "eager", "sdpa"):
        found = saccade.explain(query, key, value, kernel_options={"BACKEND": name})
        assert str(found.backend) == name
    asked = {"BACKEND": "TRITON"}
    assert "flex_attention" in str(saccade.explain(query, key, value, kernel_options=asked))


@pytest.mark.parametrize("queries", [1, 2, 4])
def test_few_queries_are_decoded(queries: int) -> None:
    """'a decode kernel for few queries'"""
    query, key, value = (each.detach() for each in draw((2, 8, queries, 16), *[(2, 2, 300, 16)] * 2))
    mask = saccade.shift(causal, q=300 - queries)
    out = flex_attention(query, key, value, mask_mod=mask, enable_gqa=True, backend="cpu")
    expected = oracle.attention(query, key, value, mask=mask).out
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


def test_captured_buffers_are_passed_in_and_learned() -> None:
    """'score and mask subgraphs inlined, captured buffers passed in, ... a fused backward derived'"""
    table, gate = draw((2, 139), (2,), seed=3)
    ids = torch.arange(70) // 30

    def score(score, b, h, q_idx, kv_idx):
        return torch.tanh(score * gate[h]) + table[h, q_idx - kv_idx + 69]

    def mask(b, h, q_idx, kv_idx):
        return (ids[q_idx] == ids[kv_idx]) & (kv_idx % 3 < 2)

    tensors = draw(*[(2, 2, 70, 16)] * 3)
    for engine in ENGINES:
        assert_equal_to_dense(tensors, engine, mask=mask, score=score, learned=[table, gate])


def test_partial_and_full_blocks_are_walked_apart() -> None:
    """'partial and full blocks walked apart': in a full block the mask_mod has no say"""
    counts, columns = torch.tensor([[[1, 1]]]), torch.tensor([[[[0, 1], [1, 0]]]])
    full_counts, full_columns = torch.tensor([[[0, 1]]]), torch.tensor([[[[0, 1], [0, 1]]]])
    made = BlockMask.from_kv_blocks(
        counts,
        columns,
        full_counts,
        full_columns,
        BLOCK_SIZE=16,
        mask_mod=lambda b, h, q, kv: q % 16 >= kv % 16,
    )
    lower, all_of = torch.ones(16, 16, dtype=torch.bool).tril(), torch.ones(16, 16, dtype=torch.bool)
    shown = torch.cat([torch.cat([lower, ~all_of], 1), torch.cat([all_of, lower], 1)])
    assert torch.equal(made.to_bool()[0, 0], shown)
    for engine in ENGINES:
        assert_equal_to_dense(
            draw(*[(1, 1, 32, 16)] * 3), engine, mask=saccade.dense(shown), mask_mod=None, block_mask=made
        )
