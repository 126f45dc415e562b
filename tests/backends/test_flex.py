"""torch's flex_attention as a backend: its reasons, and one small compilation."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxOutput as TorchAuxOutput
from torch.nn.attention.flex_attention import AuxRequest as TorchAuxRequest
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

import oracle
from saccade.attention import AuxRequest, flex_attention
from saccade.attention.request import Arguments, read_request
from saccade.backends.flex import FlexBackend, has_cpp_compiler
from saccade.block_mask import create_block_mask
from saccade.errors import BackendError
from saccade.ir.dtype import DType
from saccade.masks import causal, sliding_window
from saccade.problem import AttentionProblem, ModFacts, Outputs
from saccade.scores import softcap
from saccade.tracing import trace


def shifted(score, b, h, q_idx, kv_idx):
    return score - 0.1 * (q_idx - kv_idx)


REFUSALS = {
    "sinks": ({"sinks": torch.zeros(2)}, "it has no sinks"),
    "dropout": ({"dropout_p": 0.1}, "it has no dropout"),
    "weights": ({"return_aux": AuxRequest(weights=True)}, "it never forms the weights"),
    "lse": ({"return_lse": True}, "on a CPU it returns the output alone"),
    "a score program": ({"score_mod": trace(shifted)}, "the score_mod is a traced Program"),
    "a mask program": ({"mask_mod": trace(causal)}, "the mask_mod is a traced Program"),
    "a block mask of a program": (
        {"block_mask": create_block_mask(trace(causal), None, None, 9, 9, device="cpu")},
        "the block_mask is a traced Program",
    ),
    "two masks": (
        {
            "block_mask": create_block_mask(causal, None, None, 9, 9, device="cpu"),
            "mask_mod": sliding_window(3),
        },
        "it takes one mask.*join them",
    ),
}


@pytest.mark.parametrize(("options", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(options: dict[str, object], reason: str) -> None:
    query = torch.zeros(1, 2, 9, 16)
    with pytest.raises(BackendError, match=reason):
        flex_attention(query, query, query, backend="flex_attention", **options)


def test_refusals_of_tensors() -> None:
    with pytest.raises(BackendError, match="compute in float32 at most, and the tensors are float64"):
        flex_attention(*[torch.zeros(1, 2, 9, 16).double()] * 3, backend="flex_attention")
    with pytest.raises(BackendError, match="it takes no empty tensors"):
        flex_attention(*[torch.zeros(1, 2, 0, 16)] * 3, backend="flex_attention")
    with pytest.raises(BackendError, match="torch gives it no gradient on a CPU"):
        flex_attention(*[torch.zeros(1, 2, 9, 16, requires_grad=True)] * 3, backend="flex_attention")
    with pytest.raises(BackendError, match="it runs on cuda and cpu devices, and the tensors are on meta"):
        flex_attention(*[torch.zeros(1, 2, 9, 16, device="meta")] * 3, backend="flex_attention")


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not has_cpp_compiler()
    with pytest.raises(BackendError, match=r"it needs a C\+\+ compiler"):
        flex_attention(*[torch.zeros(1, 2, 9, 16)] * 3, backend="flex_attention")


def test_a_torch_without_further_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.backends.flex._HAS_AUX", False)
    with pytest.raises(BackendError, match="it returns the output alone in torch"):
        flex_attention(*[torch.zeros(1, 2, 9, 16)] * 3, backend="flex_attention", return_lse=True)


class TestOnCuda:
    """Reasons alone: nothing runs."""

    base = AttentionProblem("cuda", DType.BFLOAT16, 1, 1, 2, 2, 64, 64, 64, 64, scale=0.125, needs_grad=True)

    def reasons(self, monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[str]:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        return FlexBackend().unsupported_reasons(dataclasses.replace(self.base, **changes))

    def test_gradients_and_further_outputs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.reasons(monkeypatch, outputs=Outputs(lse=True, max_scores=True)) == []

    def test_narrow_heads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "needs head dimensions of 16 or more, got D=8" in self.reasons(monkeypatch, head_dim=8)[0]

    def test_the_gradient_of_a_scalar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scalar = ModFacts(trace(shifted).structure, (0.1,), ((),), (True,))
        assert self.reasons(monkeypatch, score=scalar) == [
            "it computes no gradient of a 0-d tensor that a score_mod reads"
        ]

    def test_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert FlexBackend().unsupported_reasons(self.base) == [
            "on a GPU it needs triton, which is not installed"
        ]


class TestTheCall:
    """What torch's function is given, with a stand-in for the compiled one."""

    def given(self, monkeypatch: pytest.MonkeyPatch, **options: object) -> dict[str, Any]:
        """The keywords of torch's call."""
        seen: dict[str, Any] = {}

        def attend(query: Tensor, key: Tensor, value: Tensor, **keywords: Any) -> object:
            seen.update(keywords, shapes=(query.shape, key.shape, value.shape))
            return (query, AUX) if "return_aux" in keywords else query

        monkeypatch.setattr("saccade.backends.flex._compiled", lambda: attend)
        query, key = torch.zeros(2, 4, 9, 16), torch.zeros(1, 2, 9, 16)
        request = read_request(Arguments(query, key, key, enable_gqa=True, **options))
        self.results = FlexBackend().compile(request.problem, request.schedule)(request.operands)
        return seen

    def test_keys_are_expanded_and_nothing_more_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = self.given(monkeypatch, scale=0.5, kernel_options={"BLOCK_M": 32})
        assert seen["shapes"] == ((2, 4, 9, 16), (2, 2, 9, 16), (2, 2, 9, 16))
        assert (seen["scale"], seen["enable_gqa"], seen["kernel_options"]) == (0.5, True, {"BLOCK_M": 32})
        assert seen["score_mod"] is seen["block_mask"] is None
        assert "return_aux" not in seen

    def test_further_results(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = self.given(monkeypatch, return_aux=AuxRequest(lse=True, max_scores=True))
        assert seen["return_aux"] == TorchAuxRequest(lse=True, max_scores=True)
        assert self.results.lse is AUX.lse
        assert self.results.max_scores is not None
        assert not self.results.max_scores.requires_grad

    def test_mods_are_the_users_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask = create_block_mask(causal, None, None, 9, 9, device="cpu", BLOCK_SIZE=4)
        seen = self.given(monkeypatch, score_mod=shifted, block_mask=mask)
        assert seen["score_mod"] is shifted
        assert torch.equal(seen["block_mask"].kv_indices, mask.kv_indices)

    def test_a_mask_mod_becomes_a_block_mask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask = self.given(monkeypatch, mask_mod=sliding_window(3))["block_mask"]
        assert isinstance(mask, TorchBlockMask)
        assert mask.shape == (1, 1, 9, 9)
        by_head = self.given(monkeypatch, mask_mod=lambda b, h, q_idx, kv_idx: kv_idx <= q_idx + h)[
            "block_mask"
        ]
        assert by_head.shape == (1, 4, 9, 9)

    def test_values_become_functions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        score = self.given(monkeypatch, score_mod=softcap(2.0))["score_mod"]
        assert hasattr(score, "__code__")
        assert float(score(torch.tensor(1.0), 0, 0, 0, 0)) == pytest.approx(2 * math.tanh(0.5))


AUX = TorchAuxOutput(lse=torch.zeros(2), max_scores=torch.zeros(2, requires_grad=True) * 1)


# The one test that compiles: torch takes some ten seconds for it.
@pytest.mark.skipif(not has_cpp_compiler(), reason="torch's flex_attention on a CPU needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, which differ from release to release
def test_equals_the_oracle_on_a_cpu() -> None:
    query = torch.randn(2, 5, 4, 16).transpose(1, 2).requires_grad_()
    key, value = torch.randn(1, 2, 7, 16), torch.randn(1, 2, 7, 16)

    def mask(b, h, q_idx, kv_idx):
        return (kv_idx <= q_idx) & (q_idx > 0)  # the first row sees nothing

    with torch.no_grad():
        out = flex_attention(
            query,
            key,
            value,
            softcap(2.0),
            mask_mod=mask,
            enable_gqa=True,
            scale=0.5,
            backend="flex_attention",
        )
    reference = oracle.attention(query, key, value, mask=mask, score=softcap(2.0), scale=0.5)
    torch.testing.assert_close(out, reference.out.float())
    assert out.transpose(1, 2).is_contiguous()
