"""The sdpa backend: exact where it accepts, and it accepts nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import oracle
from saccade.attention import AuxRequest, flex_attention
from saccade.backends.sdpa import SdpaBackend
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import BackendError
from saccade.ir.dtype import DType
from saccade.masks import causal, shift, sliding_window
from saccade.problem import AttentionProblem


def causal_the_other_way(b, h, q_idx, kv_idx):
    return kv_idx <= q_idx


MASKS = {
    "none": {},
    "mask_mod": {"mask_mod": causal},
    "written the other way": {"mask_mod": causal_the_other_way},
    "block_mask": {"block_mask": create_block_mask(causal, None, None, 9, 9, device="cpu", BLOCK_SIZE=4)},
    "both": {
        "block_mask": create_block_mask(causal, None, None, 9, 9, device="cpu"),
        "mask_mod": causal_the_other_way,
    },
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())
def test_equals_the_oracle(masks: dict[str, object], dtype: torch.dtype) -> None:
    shapes = ((2, 4, 9, 16), (1, 2, 9, 16), (1, 2, 9, 12))
    query, key, value = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    out = flex_attention(query, key, value, enable_gqa=True, scale=0.3, backend="sdpa", **masks)
    reference = oracle.attention(query, key, value, mask=causal if masks else None, scale=0.3).out
    tolerance = {} if dtype is torch.float64 else {"rtol": 2**-6, "atol": 2**-7}
    torch.testing.assert_close(out, reference.to(dtype), **tolerance)
    leaves = (query, key, value)
    mine = torch.autograd.grad(out.sum(), leaves)
    theirs = torch.autograd.grad(reference.sum(), leaves)
    torch.testing.assert_close(mine, theirs, **{name: 8 * size for name, size in tolerance.items()})


@pytest.mark.parametrize("shape", [(2, 4, 0, 8), (0, 4, 3, 8)], ids=str)
def test_empty_queries(shape: tuple[int, ...]) -> None:
    query = torch.zeros(shape)
    key = torch.zeros(shape[0], 4, 5, 8)
    assert flex_attention(query, key, key, backend="sdpa").shape == shape


def test_unequal_lengths_without_a_mask() -> None:
    query, key = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 7, 8)
    torch.testing.assert_close(
        flex_attention(query, key, key, backend="sdpa"), oracle.attention(query, key, key).out.float()
    )


REFUSALS = {
    "score_mod": ({"score_mod": lambda score, b, h, q_idx, kv_idx: 2 * score}, "it changes no scores"),
    "another mask": ({"mask_mod": sliding_window(3)}, "its only patterns are no mask and causal"),
    "another mask beside causal": (
        {"block_mask": MASKS["block_mask"]["block_mask"], "mask_mod": sliding_window(3)},
        "its only patterns are no mask and causal",
    ),
    "given blocks": (
        {"block_mask": BlockMask.from_torch(MASKS["block_mask"]["block_mask"].to_torch())},
        "its only patterns are no mask and causal",
    ),
    "causal and no scale": (
        {"mask_mod": causal, "scale": 0.0},
        "its CPU kernel multiplies hidden scores of -inf by the scale, and with causal and scale=0.0",
    ),
    "sinks": ({"sinks": torch.zeros(2)}, "it has no sinks"),
    "dropout": ({"dropout_p": 0.1}, "its dropout draws from another random stream"),
    "lse": ({"return_lse": True}, "it returns the output alone, not lse"),
    "weights": (
        {"return_aux": AuxRequest(lse=True, weights=True)},
        "it returns the output alone, not lse or weights",
    ),
}


@pytest.mark.parametrize(("options", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(options: dict[str, object], reason: str) -> None:
    query = torch.zeros(1, 2, 9, 8)
    with pytest.raises(BackendError, match=f"sdpa: {reason}"):
        flex_attention(query, query, query, backend="sdpa", **options)


def test_causal_needs_as_many_keys_as_queries() -> None:
    query, key = torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 3, 8)
    with pytest.raises(BackendError, match="causal with as many keys as queries or more"):
        flex_attention(query, key, key, mask_mod=causal, backend="sdpa")


@pytest.mark.parametrize(
    ("mask_mod", "q_len"),
    [(causal, 4), (shift(causal, q=2), 1), (shift(sliding_window(3), q=6), 1)],
    ids=["causal", "one query", "one query and its window"],
)
def test_keys_that_nobody_sees_are_left_out(mask_mod: object, q_len: int) -> None:
    query, key = torch.randn(1, 2, q_len, 8), torch.randn(1, 2, 9, 8)
    out = flex_attention(query, key, key, mask_mod=mask_mod, backend="sdpa")
    torch.testing.assert_close(out, oracle.attention(query, key, key, mask=mask_mod).out.float())


def test_no_keys() -> None:
    with pytest.raises(BackendError, match="its output over no keys is not defined"):
        flex_attention(torch.zeros(1, 2, 3, 8), *[torch.zeros(1, 2, 0, 8)] * 2, backend="sdpa")


def test_honours_sdpa_kernel() -> None:
    query = torch.randn(1, 2, 9, 8)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = flex_attention(query, query, query, mask_mod=causal, backend="sdpa")
    torch.testing.assert_close(out, oracle.attention(query, query, query, mask=causal).out.float())


class TestOnAGpu:
    """What is known without one."""

    PLAIN = AttentionProblem("cuda", DType.FLOAT32, 1, 1, 4, 2, 2**12, 2**12, 64, 64, scale=0.125)

    def test_scales_that_are_not_positive(self) -> None:
        (reason,) = SdpaBackend().unsupported_reasons(replace(self.PLAIN, scale=0.0))
        assert reason.startswith("its fused kernels look for a row's largest score before they scale")
        assert reason.endswith("got scale=0.0")

    @pytest.mark.parametrize(
        ("facts", "what"),
        [
            ({}, "grouped heads in float32"),
            ({"dtype": DType.FLOAT64, "q_heads": 2}, "float64"),
            (
                {"dtype": DType.FLOAT16, "head_dim": 320, "value_dim": 320},
                "grouped heads with D=320 and Dv=320",
            ),
            (
                {"dtype": DType.BFLOAT16, "head_dim": 192, "value_dim": 128},
                r"grouped heads with D=192 and Dv=128 (but cuDNN's, for some GPUs)",
            ),
        ],
    )
    def test_auto_does_not_have_it_hold_every_score(
        self, facts: dict[str, object], what: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        problem = replace(self.PLAIN, **facts)
        (reason,) = SdpaBackend().drawbacks(problem)
        assert f"torch has no fused kernel for {what} on a GPU: it would hold {problem.scores:,}" in reason
        assert SdpaBackend().unsupported_reasons(problem) == []
        assert SdpaBackend().drawbacks(replace(problem, q_len=8)) == []
        assert SdpaBackend().drawbacks(replace(problem, device="mps")) == []
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", str(problem.scores))
        assert SdpaBackend().drawbacks(problem) == []

    def test_it_has_fused_kernels_for_others(self) -> None:
        for facts in (
            {"q_heads": 2},
            {"q_heads": 2, "head_dim": 320},
            {"dtype": DType.BFLOAT16},
            {"dtype": DType.BFLOAT16, "head_dim": 256, "value_dim": 256},
        ):
            assert SdpaBackend().drawbacks(replace(self.PLAIN, **facts)) == []


def test_the_name() -> None:
    assert SdpaBackend.name == "sdpa"
