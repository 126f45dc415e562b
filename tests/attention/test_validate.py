"""Every argument that cannot be used is refused, with a message that says what to do."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask as torch_create_block_mask

from saccade.attention import AuxRequest, explain, flex_attention
from saccade.attention.options import read_options
from saccade.block_mask import create_block_mask
from saccade.errors import (
    ArgumentError,
    ArgumentTypeError,
    DTypeError,
    ModError,
    SaccadeError,
    ShapeError,
)
from saccade.masks import causal, padding
from saccade.schedule import Schedule


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def good() -> dict[str, object]:
    return {"query": zeros(2, 4, 5, 8), "key": zeros(2, 4, 7, 8), "value": zeros(2, 4, 7, 3)}


def nested() -> Tensor:
    return torch.nested.nested_tensor([zeros(2, 8), zeros(3, 8)], layout=torch.jagged)


def identity(score, b, h, q_idx, kv_idx):
    return score


FAULTS = {
    "query of another kind": (
        {"query": np.zeros((2, 4, 5, 8))},
        ArgumentTypeError,
        "query must be a torch tensor, got ndarray",
    ),
    "no key": ({"key": None}, ArgumentTypeError, "key must be a torch tensor, got NoneType"),
    "nested": ({"query": nested()}, ShapeError, "query must be nested as.*ragged in dimension 2"),
    "three dimensions": (
        {"query": zeros(4, 5, 8)},
        ShapeError,
        r"query must have four dimensions.*\[4, 5, 8\]",
    ),
    "one dimension": ({"value": zeros(8)}, ShapeError, r"value must have four dimensions.*\[8\]"),
    "two dtypes": (
        {"key": zeros(2, 4, 7, 8).half()},
        DTypeError,
        r"one dtype, got query.dtype=torch.float32, key.dtype=torch.float16",
    ),
    "integers": (
        {name: tensor.int() for name, tensor in good().items()},  # type: ignore[attr-defined]
        DTypeError,
        "must be of dtype float16, bfloat16, float32, float64, got torch.int32",
    ),
    "two devices": (
        {"key": zeros(2, 4, 7, 8, device="meta")},
        ArgumentError,
        "on one device, got query.device=cpu, key.device=meta",
    ),
    "two widths": (
        {"key": zeros(2, 4, 7, 6)},
        ShapeError,
        r"query and key must have the same head dimension.*\[2, 4, 7, 6\]",
    ),
    "no width": (
        {"query": zeros(2, 4, 5, 0), "key": zeros(2, 4, 7, 0)},
        ShapeError,
        "query must have a head dimension of 1 or more",
    ),
    "no value width": (
        {"value": zeros(2, 4, 7, 0)},
        ShapeError,
        "value must have a head dimension of 1 or more",
    ),
    "key and value lengths": (
        {"value": zeros(2, 4, 6, 3)},
        ShapeError,
        "key and value must agree in batch, heads and length",
    ),
    "key and value heads": ({"value": zeros(2, 2, 7, 3)}, ShapeError, "key and value must agree"),
    "batches": (
        {"key": zeros(3, 4, 7, 8), "value": zeros(3, 4, 7, 3)},
        ShapeError,
        r"batch size of the query, or 1.*query.shape=\[2, 4, 5, 8\] and key.shape=\[3, 4, 7, 8\]",
    ),
    "heads without groups": (
        {"key": zeros(2, 2, 7, 8), "value": zeros(2, 2, 7, 3)},
        ShapeError,
        "same number of heads, got Hq=4 and Hkv=2; pass enable_gqa=True",
    ),
    "groups of unequal size": (
        {"key": zeros(2, 3, 7, 8), "value": zeros(2, 3, 7, 3), "enable_gqa": True},
        ShapeError,
        "multiple of that of key heads, got Hq=4 and Hkv=3",
    ),
    "no heads": (
        {"key": zeros(2, 0, 7, 8), "value": zeros(2, 0, 7, 3), "enable_gqa": True},
        ShapeError,
        "1 head or more, got Hq=4 and Hkv=0",
    ),
    "scale of another kind": (
        {"scale": torch.tensor(0.5)},
        ArgumentTypeError,
        r"scale must be a number or None, got Tensor",
    ),
    "scale that is a bool": ({"scale": True}, ArgumentTypeError, "scale must be a number or None, got bool"),
    "infinite scale": ({"scale": math.inf}, ArgumentError, "scale must be finite, got scale=inf"),
    "dropout of another kind": (
        {"dropout_p": "0.1"},
        ArgumentTypeError,
        "dropout_p must be a number, got str",
    ),
    "dropout out of range": (
        {"dropout_p": 1.5},
        ArgumentError,
        r"dropout_p must be in \[0, 1\].*dropout_p=1.5",
    ),
    "NaN dropout": ({"dropout_p": math.nan}, ArgumentError, r"dropout_p must be in \[0, 1\]"),
    "sinks of another kind": (
        {"sinks": [0.0] * 4},
        ArgumentTypeError,
        "sinks must be a torch tensor or None, got list",
    ),
    "sinks of another shape": (
        {"sinks": zeros(3)},
        ShapeError,
        r"one entry a query head, shape \[4\], got shape=\[3\]",
    ),
    "integer sinks": (
        {"sinks": zeros(4).int()},
        DTypeError,
        "sinks must be of a floating dtype, got torch.int32",
    ),
    "sinks elsewhere": (
        {"sinks": zeros(4, device="meta")},
        ArgumentError,
        "sinks must be on the query's device",
    ),
    "backend": (
        {"backend": "fastest"},
        ArgumentError,
        "backend must be one of 'auto', .*'eager'.*, got 'fastest'",
    ),
    "both returns": (
        {"return_lse": True, "return_aux": AuxRequest(lse=True)},
        ArgumentError,
        "expected return_lse or return_aux, got both",
    ),
    "aux of another kind": (
        {"return_aux": True},
        ArgumentTypeError,
        "return_aux must be an AuxRequest, got bool",
    ),
    "mask as a function": (
        {"block_mask": causal},
        ArgumentTypeError,
        "block_mask must be a BlockMask.*pass a function as mask_mod=",
    ),
    "mask as a tensor": (
        {"block_mask": zeros(5, 7)},
        ArgumentTypeError,
        r"block_mask must be a BlockMask.*mask_mod=dense\(table\)",
    ),
    "mask of another kind": ({"block_mask": "causal"}, ArgumentTypeError, "make one with create_block_mask"),
    "mask too short": (
        {"block_mask": create_block_mask(causal, None, None, 4, 7, device="cpu")},
        ShapeError,
        "q_len=4 and kv_len=7, but the query has 5",
    ),
    "mask too long": (
        {"block_mask": create_block_mask(causal, None, None, 5, 9, device="cpu")},
        ShapeError,
        r"q_len=5 and kv_len=9, .*crop",
    ),
    "torch's mask too long": (
        {"block_mask": torch_create_block_mask(causal, None, None, 6, 7, device="cpu")},
        ShapeError,
        "q_len=6 and kv_len=7",
    ),
    "mask elsewhere": (
        {"block_mask": create_block_mask(causal, None, None, 5, 7, device="meta")},
        ArgumentError,
        "block_mask must be on the query's device, got block_mask.device=meta",
    ),
    "a mask for a score": ({"score_mod": causal}, ModError, "score"),
    "a score for a mask": ({"mask_mod": identity}, ModError, "mask"),
    "a factory": ({"mask_mod": padding}, ModError, r"padding\("),
    "a mod that is none": ({"score_mod": 3}, ModError, "int"),
    "kernel options of another kind": (
        {"kernel_options": 64},
        ArgumentTypeError,
        "kernel_options must be a dictionary, got int",
    ),
    "an unknown option": (
        {"kernel_options": {"BLOCKM": 64}},
        ArgumentError,
        "no key 'BLOCKM'.*BLOCK_M, BLOCK_N.*PRESCALE_QK",
    ),
    "a key that is no string": ({"kernel_options": {1: 64}}, ArgumentError, "no key 1"),
    "a tile of no size": (
        {"kernel_options": {"BLOCK_M": 0}},
        ArgumentError,
        r"kernel_options\['BLOCK_M'\] must be an integer of 1 or more, got 0",
    ),
    "a tile of another kind": (
        {"kernel_options": {"fwd_BLOCK_N": True}},
        ArgumentError,
        "must be an integer of 1 or more, got True",
    ),
    "a switch that is text": (
        {"kernel_options": {"max_autotune": "false"}},
        ArgumentError,
        r"kernel_options\['max_autotune'\] must be True or False, got 'false'",
    ),
    "a switch of one pass that is a number": (
        {"kernel_options": {"fwd_USE_TMA": 1}},
        ArgumentError,
        r"kernel_options\['fwd_USE_TMA'\] must be True or False, got 1",
    ),
    "an option of several values": (
        {"kernel_options": {"waves_per_eu": [1, 2]}},
        ArgumentError,
        r"kernel_options\['waves_per_eu'\] must be a bool, number or string, got list \[1, 2\]",
    ),
    "an unknown BACKEND": (
        {"kernel_options": {"BACKEND": "CUDA"}},
        ArgumentError,
        r'kernel_options\["BACKEND"\] must be one of .*TRITON.*eager.*CUDA',
    ),
    "two backends": (
        {"kernel_options": {"BACKEND": "TRITON"}, "backend": "eager"},
        ArgumentError,
        "to agree, got backend='eager' and BACKEND='TRITON'",
    ),
    "BACKEND and its older form": (
        {"kernel_options": {"BACKEND": "AUTO", "FORCE_USE_FLEX_ATTENTION": True}},
        ArgumentError,
        "BACKEND or FORCE_USE_FLEX_ATTENTION, got both: BACKEND='AUTO'",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_named(changes: dict[str, object], error: type[SaccadeError], message: str) -> None:
    with pytest.raises(error, match=message):
        flex_attention(**{**good(), **changes})  # type: ignore[call-overload]


class TestCaptures:
    """Tensors that a mod reads must be where the query is, 0-d ones excepted."""

    def test_elsewhere(self) -> None:
        bias = zeros(7, device="meta")
        with pytest.raises(
            ArgumentError, match=r"score_mod must read tensors on the query's device, got bias.device=meta"
        ):
            flex_attention(**good(), score_mod=lambda score, b, h, q_idx, kv_idx: score + bias[kv_idx])  # type: ignore[call-overload]
        with pytest.raises(ArgumentError, match="mask_mod must read tensors on the query's device"):
            flex_attention(**good(), mask_mod=lambda b, h, q_idx, kv_idx: bias[kv_idx] > 0)  # type: ignore[call-overload]

    def test_a_scalar_on_the_host_serves_any_device(self) -> None:
        scalar = torch.tensor(2.0, device="cpu")
        query = zeros(1, 1, 3, 8, device="meta")
        out = flex_attention(
            query, query, query, lambda score, b, h, q_idx, kv_idx: score * scalar, backend="eager"
        )
        assert out.shape == query.shape
        assert out.is_meta


@pytest.mark.parametrize("scale", [2, 0.25, np.float32(0.5), np.float64(0.5)], ids=repr)
def test_numbers_of_every_kind_are_scales(scale: float) -> None:
    query = torch.randn(1, 1, 3, 8)
    by_scale = flex_attention(query, query, query, scale=scale, backend="eager")
    torch.testing.assert_close(by_scale, torch.softmax(query @ query.mT * float(scale), -1) @ query)


class TestKernelOptions:
    def test_tiles_are_hints(self) -> None:
        read = read_options(
            {"BLOCK_M": 64, "fwd_BLOCK_N": 32, "bwd_BLOCK_M1": 16, "BLOCK_N2": 8, "num_warps": 4}, "auto"
        )
        hints = read.schedule
        assert (hints.q_tile, hints.kv_tile, hints.backward_q_tile) == (64, 32, 16)
        assert (hints.backward_dq_kv_tile, hints.num_warps, hints.num_stages) == (8, 4, None)

    def test_a_prefix_says_more(self) -> None:
        assert read_options({"fwd_BLOCK_M": 32, "BLOCK_M": 64}, "auto").schedule.q_tile == 32
        assert read_options({"bwd_BLOCK_M": 32}, "auto").schedule.q_tile is None
        assert read_options({"fwd_BLOCK_M1": 32}, "auto").schedule.backward_q_tile is None

    def test_options_of_the_gpu_engine(self, caplog: pytest.LogCaptureFixture) -> None:
        options = {"USE_TMA": True, "fwd_SPLIT_KV": 4, "max_autotune": True}
        with caplog.at_level(logging.DEBUG, logger="saccade"):
            assert dict(read_options(options, "auto").schedule.engine_options) == options
        assert not caplog.records
        with pytest.raises(
            ArgumentError, match=r"kernel_options\['SPLIT_KV'\] must be an integer of 1 or more"
        ):
            read_options({"SPLIT_KV": 0}, "auto")

    def test_all_reach_torch(self) -> None:
        options = {"PRESCALE_QK": True, "BLOCK_M": 64, "BACKEND": "TRITON"}
        assert dict(read_options(options, "auto").schedule.engine_options) == options

    @pytest.mark.parametrize(
        ("given", "backend", "chosen"),
        [
            ("AUTO", "auto", "auto"),
            ("AUTO", "sdpa", "sdpa"),
            ("TRITON", "auto", "flex_attention"),
            ("TRITON_DECODE", "flex_attention", "flex_attention"),
            ("FLASH", "auto", "flex_attention"),
            ("eager", "auto", "eager"),
        ],
    )
    def test_backends(self, given: str, backend: str, chosen: str) -> None:
        assert read_options({"BACKEND": given}, backend).backend == chosen

    def test_our_own_backends_do_not_reach_torch(self) -> None:
        assert read_options({"BACKEND": "eager"}, "auto").schedule == Schedule()

    def test_options_without_meaning_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG, logger="saccade"):
            flex_attention(**good(), kernel_options={"PRESCALE_QK": True, "BLOCK_M": 64})  # type: ignore[call-overload]
        assert "kernel_options PRESCALE_QK have no meaning" in caplog.text
        assert "cpu runs" in caplog.text


class TestExplain:
    def test_takes_the_same_arguments_and_tells_everything(self) -> None:
        query = zeros(2, 4, 256, 16)
        slopes = torch.ones(4)

        def score(score, b, h, q_idx, kv_idx):
            return score - slopes[h] * (q_idx - kv_idx)

        mask = create_block_mask(causal, None, None, 256, 256, device="cpu", BLOCK_SIZE=64)
        explained = explain(query, query, query, score, mask, return_lse=True)
        assert explained.backend == "cpu"
        assert explained.density == pytest.approx(257 / 512)
        assert explained.work == pytest.approx(10 / 16)
        text = repr(explained)
        assert "query [2, 4, 256, 16]" in text
        assert "slopes[h]" in text
        assert "kv_idx <= q_idx" in text
        assert "██" in text
        assert "visible pairs: 50.2%; blocks to compute: 62.5%, saved: 37.5%" in text
        assert "cpu: taken" in text
        assert "eager: could take it" in text
        assert "sdpa: cannot take it:\n    - it changes no scores" in text

    def test_a_call_that_all_refuse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", "10")
        query = zeros(1, 1, 8, 513).requires_grad_()  # more dimensions than the engine has
        explained = explain(query, query, query, identity_of_twice)
        assert explained.backend is None
        assert "none takes this call" in repr(explained)
        assert "at most 10" in repr(explained)
        assert explained.density == explained.work == 1.0

    def test_masks_together(self) -> None:
        query = zeros(2, 2, 8, 16)
        block_mask = create_block_mask(causal, None, None, 8, 8, device="cpu", BLOCK_SIZE=2)
        explained = explain(
            query, query, query, None, block_mask, mask_mod=lambda b, h, q_idx, kv_idx: kv_idx < 4
        )
        assert explained.blocks is not None
        assert explained.blocks.shape == (1, 1, 8, 8)
        assert explained.density == pytest.approx(26 / 64)

    def test_given_blocks_and_a_mask_mod_make_no_map(self) -> None:
        query = zeros(1, 1, 8, 16)
        given = torch_create_block_mask(causal, None, None, 8, 8, device="cpu", BLOCK_SIZE=4)
        explained = explain(query, query, query, None, given, mask_mod=causal)
        assert explained.blocks is explained.density is explained.work is None
        assert "blocks:" not in repr(explained)

    def test_a_backend_by_name(self) -> None:
        query = zeros(1, 1, 8, 16)
        explained = explain(query, query, query, backend="sdpa", return_lse=True)
        assert explained.backend is None
        assert "eager: could take it" in repr(explained)

    def test_nothing_to_see(self) -> None:
        query = zeros(1, 1, 0, 16)
        assert explain(query, query, query, mask_mod=causal).blocks is None


def identity_of_twice(score, b, h, q_idx, kv_idx):
    return score * 2
