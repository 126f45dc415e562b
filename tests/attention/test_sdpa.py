"""`scaled_dot_product_attention` is torch's: signature, results, gradients and kinds of error."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as torchs

from saccade.attention import flex_attention, scaled_dot_product_attention
from saccade.attention.sdpa import _causal, read_sdpa
from saccade.errors import ArgumentTypeError, BackendError, OperandError, UnsupportedError
from saccade.masks import causal

LOW = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}  # half a unit in the last place


def test_the_signature_is_torchs() -> None:
    theirs = torch.ops.aten.scaled_dot_product_attention.default._schema.arguments
    ours = list(inspect.signature(scaled_dot_product_attention).parameters.values())
    assert ours.pop().name == "backend"
    assert [one.name for one in ours] == [one.name for one in theirs]
    keyword_only = [one.kind is inspect.Parameter.KEYWORD_ONLY for one in ours]
    assert keyword_only == [one.kwarg_only for one in theirs]
    defaults = [one.default for one in ours]
    expected = [one.default_value if one.has_default_value() else inspect.Parameter.empty for one in theirs]
    assert defaults == expected


@dataclass(frozen=True)
class Drawn:
    """A call that torch takes, in float64."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None
    options: dict[str, object]

    @property
    def leaves(self) -> list[Tensor]:
        tensors = (self.query, self.key, self.value, self.attn_mask)
        return [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]

    def to(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        mask = self.attn_mask
        if mask is not None and mask.is_floating_point():
            mask = mask.detach().to(dtype)
        return (*(tensor.detach().to(dtype) for tensor in (self.query, self.key, self.value)), mask)


@st.composite
def calls(draw: st.DrawFn) -> Drawn:
    """Leading dimensions that broadcast, lengths down to 0, every kind of mask."""
    leading = draw(st.lists(st.integers(1, 3), max_size=3))
    q_len, kv_len = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    features, value_features = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    grouped = len(leading) > 0 and draw(st.booleans())

    def broadcastable(sizes: list[int]) -> list[int]:
        if 0 in (q_len, kv_len):  # torch's output over nothing has the query's leading dimensions as they are
            return sizes
        kept = sizes[draw(st.integers(0, len(sizes))) :]
        return [draw(st.sampled_from([1, size])) for size in kept]

    def tensor(shape: list[int]) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, requires_grad=True)

    if grouped:
        heads = leading[-1] * draw(st.integers(1, 3))
        query = tensor([*broadcastable(leading[:-1]), heads, q_len, features])
        key = tensor([*broadcastable(leading[:-1]), leading[-1], kv_len, features])
        value = tensor(
            [*broadcastable(leading[:-1]), draw(st.sampled_from([1, leading[-1]])), kv_len, value_features]
        )
    else:
        query = tensor([*broadcastable(leading), q_len, features])
        key = tensor([*broadcastable(leading), kv_len, features])
        value = tensor([*broadcastable(leading), kv_len, value_features])
    options: dict[str, object] = {
        "enable_gqa": grouped,
        "scale": draw(st.sampled_from([None, 0.7, -0.3, 0.0])),
    }
    kind = draw(st.sampled_from(["none", "causal", "bool", "float", "expanded bool", "expanded float"]))
    options["is_causal"] = kind == "causal"
    mask = None
    if kind not in ("none", "causal"):
        # Torch's mask must not enlarge the scores, whose leading dimensions are those of q·k alone.
        lead = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3])
        full = [*lead, *_heads_of_scores(query, key, grouped), q_len, kv_len]
        sizes = [*broadcastable(full[:-2]), *(draw(st.sampled_from([1, size])) for size in full[-2:])]
        mask = torch.randn(sizes, dtype=torch.float64)
        if "expanded" in kind:
            mask = mask.expand(
                [
                    size if draw(st.booleans()) else own
                    for size, own in zip(full[len(full) - len(sizes) :], sizes, strict=True)
                ]
            )
        if "bool" in kind:
            mask = mask > -0.5
        else:
            mask = torch.where(mask > 1.5, -math.inf, mask).requires_grad_()
    return Drawn(query, key, value, mask, options)


def _heads_of_scores(query: Tensor, key: Tensor, grouped: bool) -> list[int]:
    if query.dim() == key.dim() == 2:
        return []
    q_heads = query.shape[-3] if query.dim() > 2 else 1
    k_heads = key.shape[-3] if key.dim() > 2 else 1
    return [q_heads if grouped else max(q_heads, k_heads)]


@given(calls(), st.sampled_from(["auto", "eager"]))
def test_results_and_gradients_are_torchs(call: Drawn, backend: str) -> None:
    given_mask = call.attn_mask
    with sdpa_kernel(SDPBackend.MATH):
        theirs = torchs(call.query, call.key, call.value, given_mask, **call.options)
    ours = scaled_dot_product_attention(
        call.query, call.key, call.value, given_mask, backend=backend, **call.options
    )
    torch.testing.assert_close(ours, theirs)
    if theirs.requires_grad:  # torch's output over nothing does not
        factors = torch.randn_like(theirs)
        # Not every leaf is part of a graph over nothing.
        lenient = {"allow_unused": True, "materialize_grads": True}
        expected = torch.autograd.grad((theirs * factors).sum(), call.leaves, **lenient)
        gradients = torch.autograd.grad((ours * factors).sum(), call.leaves, **lenient)
        torch.testing.assert_close(gradients, expected)


@given(calls(), st.sampled_from(sorted(LOW, key=str)))
def test_low_precision_is_no_worse_than_torchs(call: Drawn, dtype: torch.dtype) -> None:
    query, key, value, mask = call.to(dtype)
    precise = [
        tensor if tensor is None or tensor.dtype is torch.bool else tensor.double()
        for tensor in call.to(dtype)
    ]
    with sdpa_kernel(SDPBackend.MATH):
        exact = torchs(*precise, **call.options)
        theirs = torchs(query, key, value, mask, **call.options)
    ours = scaled_dot_product_attention(query, key, value, mask, backend="eager", **call.options)
    assert ours.dtype is dtype
    if exact.numel() and value.numel():
        allowed = 2 * (theirs - exact).abs().max() + 2 * LOW[dtype] * value.double().abs().max()
        assert (ours - exact).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_float32_mask_goes_with_every_dtype(dtype: torch.dtype) -> None:
    query, key, value = torch.randn(3, 2, 3, 5, 8, dtype=torch.float64).to(dtype)
    mask = torch.randn(5, 5)
    exact = torchs(query.double(), key.double(), value.double(), mask.double())
    ours = scaled_dot_product_attention(query, key, value, mask)
    tolerance = 2 * LOW.get(dtype, 2**-40) * value.double().abs().max()
    assert (ours.double() - exact).abs().max() <= tolerance


@pytest.mark.parametrize(
    "mask", [None, torch.randn(5, 5), torch.randn(5, 5).half(), torch.ones(5, 5).tril() > 0]
)
def test_autocast_casts_what_torch_casts(mask: Tensor | None) -> None:
    query, key, value = torch.randn(3, 2, 3, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = torchs(query, key, value, mask)
        ours = scaled_dot_product_attention(query, key, value, mask)
    assert ours.dtype is theirs.dtype is torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=2**-5)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda query: query,
        lambda query: query.transpose(1, 2).contiguous().transpose(1, 2),
        lambda query: query[:1],
        lambda query: query[:, :1],
        lambda query: query[:1].expand(2, -1, -1, -1),
    ],
    ids=["plain", "transposed", "one batch", "one head", "expanded"],
)
def test_no_two_entries_of_the_output_share_memory(arrange: Callable[[Tensor], Tensor]) -> None:
    query, key, value = torch.randn(3, 2, 3, 5, 8)
    out = scaled_dot_product_attention(arrange(query), key, value)
    assert out.stride(-1) == 1
    assert sorted(out.stride()) == [1, 8, *sorted(out.stride())[2:]]
    assert out.untyped_storage().nbytes() == out.numel() * out.element_size()
    torch.testing.assert_close(out, torchs(arrange(query), key, value))


def test_a_transposed_query_gives_a_transposed_output() -> None:
    query, key, value = torch.randn(3, 2, 5, 3, 8).transpose(2, 3).unbind()
    assert scaled_dot_product_attention(query, key, value).stride() == query.stride()


class TestRowsThatSeeNothing:
    @pytest.mark.parametrize("hides", [False, -math.inf])
    def test_give_zero(self, hides: float | bool) -> None:
        query, key, value = torch.randn(3, 1, 2, 4, 8, requires_grad=True).unbind()
        mask = torch.ones(4, 4, dtype=torch.bool) if hides is False else torch.zeros(4, 4)
        mask[1] = hides
        out = scaled_dot_product_attention(query, key, value, mask)
        assert not out[:, :, 1].any()
        (gradient,) = torch.autograd.grad(out.sum(), query)
        assert gradient.isfinite().all()
        assert not gradient[:, :, 1].any()

    @pytest.mark.parametrize("heads", [1, 2], ids=["analysed", "read pair by pair"])
    @pytest.mark.parametrize("backend", ["cpu", "eager"])
    def test_the_lowest_number_hides_where_torch_averages(self, heads: int, backend: str) -> None:
        query, key, value = torch.randn(3, 1, 2, 160, 8)
        mask = torch.randn(1, heads, 160, 160)
        mask[..., 7, :] = torch.finfo(torch.float32).min
        mask[..., 9, 3:] = torch.finfo(torch.float32).min / 2
        mask[..., 11, 5] = -1e30
        out = scaled_dot_product_attention(query, key, value, mask, backend=backend)
        expected = torchs(query, key, value, mask)
        torch.testing.assert_close(expected[:, :, 7], value.mean(2))
        expected[:, :, 7] = 0
        torch.testing.assert_close(out, expected)

    def test_a_learned_table_has_no_gradient_where_it_hides(self) -> None:
        query, key, value = torch.randn(3, 1, 2, 6, 8)
        mask = torch.randn(2, 6, 6)
        mask[:, 2:, 4:] = torch.finfo(torch.float32).min
        mask[:, 5] = torch.finfo(torch.float32).min
        mask.requires_grad_()
        upstream = torch.randn(1, 2, 6, 8)
        mine, theirs = (
            torch.autograd.grad(attend(query, key, value, mask), mask, upstream)[0]
            for attend in (scaled_dot_product_attention, torchs)
        )
        assert not mine[:, 5].any()
        torch.testing.assert_close(mine[:, :5], theirs[:, :5])
        assert not mine[:, 2:5, 4:].any()


class TestReading:
    """What the arguments become, before anything is computed."""

    def test_a_causal_mask_is_made_once_for_each_pair_of_lengths(self) -> None:
        query, key = torch.randn(1, 2, 5, 8), torch.randn(1, 2, 7, 8)
        first, again = (read_sdpa(query, key, key, is_causal=True).request.operands for _ in range(2))
        other = read_sdpa(query, query, query, is_causal=True).request.operands
        assert first.block_mask is again.block_mask is not other.block_mask
        assert first.block_mask.mask_mod is causal

    @pytest.mark.parametrize(
        ("stored", "shape"),
        [
            ((5, 7), (2, 3, 5, 7)),
            ((2, 1, 1, 7), (2, 3, 5, 7)),
            ((2, 1, 5, 7), (2, 3, 5, 7)),
            ((1, 1), (5, 7)),
        ],
    )
    @pytest.mark.parametrize("kind", [torch.bool, torch.float32], ids=str)
    def test_an_expanded_mask_is_read_as_it_is_stored(
        self, stored: tuple[int, ...], shape: tuple[int, ...], kind: torch.dtype
    ) -> None:
        query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
        mask = torch.ones(stored, dtype=kind)
        operands = read_sdpa(query, key, key, mask.expand(shape)).request.operands
        tables = (operands.mask if kind is torch.bool else operands.score).captures
        assert all(table.numel() == mask.numel() for table in tables)
        assert mask.data_ptr() in [table.data_ptr() for table in tables]

    def test_every_entry_of_an_expanded_mask_gets_its_own_gradient(self) -> None:
        query, key, value = torch.randn(3, 2, 3, 5, 8, dtype=torch.float64)
        mask = torch.randn(5, 5, dtype=torch.float64, requires_grad=True).expand(2, 3, 5, 5)
        ours = torch.autograd.grad(scaled_dot_product_attention(query, key, value, mask).sum(), mask)
        theirs = torch.autograd.grad(torchs(query, key, value, mask).sum(), mask)
        torch.testing.assert_close(ours, theirs)

    def test_keys_that_are_shared_are_not_repeated(self) -> None:
        query, key = torch.randn(4, 6, 5, 8), torch.randn(1, 1, 7, 8)
        problem = read_sdpa(query, key, key).request.problem
        assert (problem.batch, problem.kv_batch, problem.q_heads, problem.kv_heads) == (4, 1, 6, 1)

    def test_a_scale_in_a_tensor_is_a_number(self) -> None:
        query = torch.randn(1, 2, 5, 8)
        assert read_sdpa(query, query, query, scale=torch.tensor(0.5)).request.problem.scale == 0.5


class Causal(torch.nn.Module):
    def forward(self, query: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, query, query, is_causal=True)


class TestCausalMasksAreNoCompilersOwn:
    """What is kept between calls must not be made while torch makes stand-ins of all tensors."""

    @pytest.fixture(autouse=True)
    def _none_are_kept(self) -> None:
        _causal.cache_clear()

    def test_export(self) -> None:
        query = torch.randn(1, 2, 6, 8)
        for _ in range(2):
            exported = torch.export.export(Causal(), (query,), strict=False).module()
            torch.testing.assert_close(exported(query), torchs(query, query, query, is_causal=True))

    @pytest.mark.parametrize("first", ["real", "fake", "symbolic"])
    def test_make_fx(self, first: str) -> None:
        query = torch.randn(1, 2, 6, 8)
        expected = torchs(query, query, query, is_causal=True)
        for mode in (first, "real", "fake"):
            graph = make_fx(Causal(), tracing_mode=mode)(query)
            torch.testing.assert_close(graph(query), expected)
        torch.testing.assert_close(Causal()(query), expected)

    def test_a_plain_call_after_one_without_data(self) -> None:
        with FakeTensorMode():
            assert Causal()(torch.empty(1, 2, 6, 8)).shape == (1, 2, 6, 8)
        torch.func.grad(lambda query: Causal()(query).sum())(torch.randn(1, 2, 6, 8))
        query = torch.randn(1, 2, 6, 8)
        torch.testing.assert_close(Causal()(query), torchs(query, query, query, is_causal=True))
        torch.testing.assert_close(make_fx(Causal())(query)(query), Causal()(query))


class TestDropout:
    def test_is_that_of_flex_attention(self) -> None:
        query, key, value = torch.randn(3, 2, 3, 5, 8)
        torch.manual_seed(7)
        ours = scaled_dot_product_attention(query, key, value, dropout_p=0.4)
        torch.manual_seed(7)
        torch.testing.assert_close(ours, flex_attention(query, key, value, dropout_p=0.4), rtol=0.0, atol=0.0)
        assert not torch.equal(ours, scaled_dot_product_attention(query, key, value, dropout_p=0.4))

    def test_of_everything_leaves_nothing(self) -> None:
        query = torch.randn(1, 2, 5, 8)
        assert not scaled_dot_product_attention(query, query, query, dropout_p=1.0).any()


def q(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


REFUSED = {
    "no tensor": ((q(2, 3), [1], q(2, 3)), {}, "key must be a torch tensor, got list"),
    "a mask that is none": ((q(2, 3),) * 3 + ([1],), {}, "attn_mask must be a torch tensor, got list"),
    "a function for a mask": (
        (q(2, 3),) * 3 + (causal,),
        {},
        "attn_mask must be a torch tensor, got _Causal; call saccade.flex_attention with mask_mod=",
    ),
    "one dimension": (
        (q(3),) * 3,
        {},
        r"query must have two dimensions \[length, features\] or more.*=\[3\]",
    ),
    "features": ((q(2, 3), q(2, 4), q(2, 4)), {}, r"same last dimension.*\[2, 3\] and key.shape=\[2, 4\]"),
    "heads": (
        (q(4, 2, 3), q(2, 2, 3), q(2, 2, 3)),
        {},
        r"must be equal or 1, got query.*pass enable_gqa=True",
    ),
    "groups": (
        (q(3, 2, 3), q(2, 2, 3), q(2, 2, 3)),
        {"enable_gqa": True},
        r"must divide the query's, got query.shape=\[3, 2, 3\]",
    ),
    "batches of groups": (
        (q(2, 4, 2, 3), q(3, 2, 2, 3), q(3, 2, 2, 3)),
        {"enable_gqa": True},
        r"leading dimensions of query, key and value must be equal or 1",
    ),
    "mask's shape": (
        (q(2, 3),) * 3 + (q(2, 5),),
        {},
        r"broadcast to \[..., L, S\].*\[2, 5\] for .* \[2, 2\]",
    ),
    "a mask that enlarges": ((q(2, 3),) * 3 + (q(4, 2, 2),), {}, r"attn_mask.shape=\[4, 2, 2\]"),
    "mask's dtype": (
        (q(2, 3),) * 3 + (q(2, 2, dtype=torch.int64),),
        {},
        r"attn_mask must be bool .*attn_mask.dtype=torch.int64 and query.dtype=torch.float32.*\.bool\(\)",
    ),
    "mask's precision": (
        (q(2, 3),) * 3 + (q(2, 2, dtype=torch.float64),),
        {},
        "attn_mask.dtype=torch.float64",
    ),
    "both": ((q(2, 3),) * 3 + (q(2, 2),), {"is_causal": True}, r"attn_mask or is_causal, got both.*tril\(\)"),
    "is_causal": ((q(2, 3),) * 3, {"is_causal": 1}, "is_causal must be a bool, got int 1"),
    "dtypes": ((q(2, 3), q(2, 3).half(), q(2, 3)), {}, "must have one dtype, got query.dtype=torch.float32"),
    "integers": ((q(2, 3, dtype=torch.int32),) * 3, {}, "must be of dtype float16, bfloat16"),
    "devices": ((q(2, 3), q(2, 3).to("meta"), q(2, 3)), {}, "must be on one device"),
    "dropout_p": ((q(2, 3),) * 3, {"dropout_p": 1.5}, r"dropout_p must be in \[0, 1\].*dropout_p=1.5"),
    "no dropout_p": ((q(2, 3),) * 3, {"dropout_p": None}, "dropout_p must be a number, got NoneType"),
    "scale": (
        (q(2, 3),) * 3,
        {"scale": torch.ones(2)},
        r"scale must be a number, or a 0-d tensor.*shape \[2\]",
    ),
    "name of scale": ((q(2, 3),) * 3 + (None, 0.0, False, 0.5), {}, "positional arguments"),
}


@pytest.mark.parametrize(("args", "options", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_errors_are_torchs_kind_of_error(
    args: tuple[object, ...], options: dict[str, object], text: str
) -> None:
    with pytest.raises((RuntimeError, TypeError)) as theirs:
        torchs(*args, **options)
    with pytest.raises(theirs.type, match=text):
        scaled_dot_product_attention(*args, **options)


def test_lengths_of_key_and_value_differ() -> None:
    # Torch's CPU kernel reads past the shorter one instead.
    with pytest.raises(OperandError, match=r"key and value must have the same length.*\[5, 3\].*\[6, 3\]"):
        scaled_dot_product_attention(q(2, 3), q(5, 3), q(6, 3))


# What nested tensors of torch say of themselves.
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
class TestNestedTensors:
    @staticmethod
    def drawn(*lengths: int) -> list[Tensor]:
        offsets = torch.tensor([0, *lengths]).cumsum(0)
        leaves = [torch.randn(sum(lengths), 2, 8, requires_grad=True) for _ in range(3)]
        return [torch.nested.nested_tensor_from_jagged(one, offsets).transpose(1, 2) for one in leaves]

    @pytest.mark.parametrize("backend", ["cpu", "eager"])
    def test_each_sequence_is_by_itself(self, backend: str) -> None:
        tensors = self.drawn(3, 0, 6)
        found = scaled_dot_product_attention(*tensors, scale=0.3, backend=backend)
        assert found.shape == tensors[0].shape
        torch.testing.assert_close(found.values(), torchs(*tensors, scale=0.3).values())
        # On a CPU torch has no causal attention of nested tensors.
        found = scaled_dot_product_attention(*tensors, is_causal=True, backend=backend)
        alone = [
            torchs(*one, is_causal=True) for one in zip(*(each.unbind() for each in tensors), strict=True)
        ]
        torch.testing.assert_close(found.values(), torch.cat(alone, dim=1))

    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            (
                lambda one: (one, one, one, torch.ones(9, 9)),
                UnsupportedError,
                "nested tensors take no attn_mask",
            ),
            (
                lambda one: (one, one, torch.ones(1, 2, 9, 8)),
                ArgumentTypeError,
                "value must be a nested tensor",
            ),
            (lambda one: (one.transpose(1, 2),) * 3, OperandError, r"pass query.transpose\(1, 2\)"),
            (lambda one: (one, one, one, None, 0.0, 3), ArgumentTypeError, "is_causal must be a bool"),
        ],
    )
    def test_what_cannot_be_used_is_refused(
        self, call: Callable[[Tensor], tuple[object, ...]], error: type[Exception], text: str
    ) -> None:
        with pytest.raises(error, match=text):
            scaled_dot_product_attention(*call(self.drawn(3, 6)[0]))


def test_backends_are_those_of_flex_attention() -> None:
    query, mask = torch.zeros(2, 4, 8), torch.zeros(4, 4)
    with pytest.raises(BackendError, match="sdpa: it changes no scores"):
        scaled_dot_product_attention(query, query, query, mask, backend="sdpa")
    with pytest.raises(OperandError, match=r"backend must be one of 'auto'.*got 'nonsense'"):
        scaled_dot_product_attention(query, query, query, backend="nonsense")


def test_the_wrong_kind_of_argument_is_a_type_error() -> None:
    with pytest.raises(ArgumentTypeError, match="query must be a torch tensor"):
        scaled_dot_product_attention(None, None, None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"attn_mask": torch.ones(2, 1, 1, 5).gt(0).expand(2, 3, 5, 5)},
        {"attn_mask": torch.arange(25.0).view(5, 5), "scale": 0.2},
    ],
    ids=["plain", "causal", "bool", "float"],
)
def test_torch_compile(options: dict[str, object]) -> None:
    query, key, value = torch.randn(3, 2, 3, 5, 8)
    run = torch.compile(scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(query, key, value, **options), torchs(query, key, value, **options))
