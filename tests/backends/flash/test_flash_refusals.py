"""What the flash-attn backends refuse, each with its reason; and what they are looked for by."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._subclasses import FakeTensorMode

from backends.flash.stand_in import FLASH_2, FLASH_3, FLASH_4, deterministic, installed
from backends.patterns.recognised import problem
from saccade.backends.flash import FlashAttention2Backend, FlashAttention3Backend, FlashAttention4Backend
from saccade.backends.flash import library as libraries
from saccade.ir.dtype import DType
from saccade.masks import causal, document, local, sliding_window
from saccade.problem import ModFacts, Outputs
from saccade.scores import alibi
from saccade.tracing import trace

IDS = torch.tensor([0, 0, 1, 1, 1, 1])
PLAIN = replace(problem(causal, 6, 6), head_dim=64, value_dim=64)
SCORE = ModFacts(trace(alibi(2)).structure)


def test_what_they_take() -> None:
    with installed(FLASH_2, FLASH_3, FLASH_4):
        for backend in (FlashAttention2Backend(), FlashAttention3Backend(), FlashAttention4Backend()):
            assert backend.unsupported_reasons(PLAIN) == []
            assert backend.unsupported_reasons(replace(PLAIN, needs_grad=True)) == []


REFUSALS = {
    "device": ({"device": "xpu"}, r"it runs on NVIDIA GPUs \(cuda devices\), and the tensors are on xpu"),
    "dtype": ({"dtype": DType.FLOAT32}, "it takes float16 and bfloat16, and the tensors are float32"),
    "head dimension": ({"head_dim": 60, "value_dim": 60}, "multiples of 8 up to 256, .* got D=60 and Dv=60"),
    "value dimension": ({"value_dim": 128}, "the same for keys and values, got D=64 and Dv=128"),
    "nothing": ({"q_len": 0}, "it takes no empty tensors"),
    "tokens": ({"batch": 2**29}, "it counts tokens to 2,147,483,647"),
    "scale": ({"scale": -1.0}, "it looks for a row's largest score before it scales, .* got scale=-1.0"),
    "score_mod": ({"score": SCORE}, "it is not given score changes, and there is a score_mod"),
    "sinks": ({"sinks": DType.FLOAT32}, "it is not given sinks"),
    "dropout": ({"dropout_p": 0.1}, "its dropout draws from another random stream"),
    "weights": ({"outputs": Outputs(weights=True)}, "it never forms the weights"),
    "max_scores": ({"outputs": Outputs(max_scores=True)}, "it does not return the largest scores"),
    "gradient of lse": (
        {"outputs": Outputs(lse=True), "needs_grad": True},
        "its lse carries no gradient, and one may be wanted",
    ),
    "tangent": ({"needs_grad": True, "needs_tangent": True}, "it has no forward-mode derivative"),
    "vmap": (
        {"follower": "torch.func.vmap"},
        "its kernels are no operations that torch.func.vmap can follow",
    ),
    "another mask": (
        {"mask_mod": problem(lambda b, h, q, kv: (q - kv) % 2 == 0, 6, 6).mask_mod},
        "its only patterns are no mask, causal, .* and the mask is another",
    ),
    "ids nobody looked at": (
        {"mask_mod": replace(problem(document(IDS), 6, 6).mask_mod, contents=())},
        "or is not known to be one of them",
    ),
    "a window without its own place": (
        {"mask_mod": problem(sliding_window(1), 6, 6).mask_mod, "kv_len": 4},
        "windows that hold a query's own place",
    ),
    "a window ahead, wider than the keys": (
        {"mask_mod": problem(causal, 6, 6).mask_mod, "q_len": 9, "kv_len": 4},
        "it takes a window of 5 keys ahead for all of them where it has 4 keys",
    ),
    "lse of empty rows": (
        {"mask_mod": problem(lambda b, h, q, kv: kv < q, 6, 6).mask_mod, "outputs": Outputs(lse=True)},
        "its lse of queries that see nothing is not defined, and there are some",
    ),
}


@pytest.mark.parametrize(("facts", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(facts: dict[str, object], reason: str) -> None:
    with installed(FLASH_2):
        (given,) = FlashAttention2Backend().unsupported_reasons(replace(PLAIN, **facts))
    assert re.search(reason, given)


def test_graphs_of_compilers() -> None:
    with installed(FLASH_2), FakeTensorMode():
        (given,) = FlashAttention2Backend().unsupported_reasons(PLAIN)
    assert given == "its kernels are not taken into graphs of torch.compile and torch.export"


@pytest.mark.parametrize(
    ("backend", "gpu", "reason"),
    [
        (FlashAttention2Backend(), (7, 5), "it needs a GPU of compute capability 8.0 to 12.x"),
        (FlashAttention3Backend(), (10, 0), r"capability 9.0 \(Hopper\), and this one has 10.0"),
        (FlashAttention4Backend(), (8, 9), r"capability 9.0 to 11.x \(Hopper and Blackwell\), .* has 8.9"),
        (FlashAttention2Backend(), None, "it needs an NVIDIA GPU that torch can use, and there is none"),
    ],
)
def test_other_gpus(backend, gpu, reason: str) -> None:
    with installed(FLASH_2, FLASH_3, FLASH_4, capability=gpu):
        (given,) = backend.unsupported_reasons(PLAIN)
    assert re.search(reason, given)


def test_version_4_has_head_dimensions_of_its_own() -> None:
    with installed(FLASH_4):
        (given,) = FlashAttention4Backend().unsupported_reasons(replace(PLAIN, head_dim=72, value_dim=72))
    assert "it takes head dimensions of 64, 96 and 128" in given


@pytest.mark.parametrize("mask_mod", [local(2, 1), document(IDS)], ids=["window", "documents"])
def test_version_4_on_hopper_differentiates_neither_windows_nor_documents(mask_mod) -> None:
    asked = replace(PLAIN, mask_mod=problem(mask_mod, 6, 6).mask_mod)
    wanting = replace(asked, needs_grad=True)
    backend = FlashAttention4Backend()
    with installed(FLASH_4, capability=(9, 0)):
        assert backend.unsupported_reasons(asked) == []
        (given,) = backend.unsupported_reasons(wanting)
        assert given == "on compute capability 9.x its backward takes neither windows nor packed documents"
    with installed(FLASH_4, capability=(10, 0)):
        assert backend.unsupported_reasons(wanting) == []


def test_what_is_not_installed_says_how_to_get_it() -> None:
    with installed():
        for backend, how in (
            (FlashAttention2Backend(), "flash_attn is not installed; pip install flash-attn"),
            (FlashAttention3Backend(), "flash_attn_interface is not installed; build the folder hopper"),
            (FlashAttention4Backend(), "flash_attn.cute is not installed; pip install flash-attn-4"),
        ):
            (given,) = backend.unsupported_reasons(PLAIN)
            assert how in given


def test_an_old_version_says_what_it_lacks() -> None:
    with installed(FLASH_3):
        sys.modules[FLASH_3].flash_attn_func = lambda q, k, v, softmax_scale, causal, window_size: None
        (given,) = FlashAttention3Backend().unsupported_reasons(PLAIN)
    assert given.startswith(
        "the installed flash_attn_interface has no flash_attn_func(return_attn_probs=); install a newer one"
    )


def test_before_2_6_lse_of_sequences_was_padded() -> None:
    def flash_attn_varlen_func(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1), alibi_slopes=None, deterministic=False, return_attn_probs=False,
    ):  # fmt: skip
        raise AssertionError

    with installed(FLASH_2):
        sys.modules[FLASH_2].flash_attn_varlen_func = flash_attn_varlen_func
        (given,) = FlashAttention2Backend().unsupported_reasons(PLAIN)
    assert given.startswith("the installed flash_attn has no flash_attn_varlen_func(softcap=); install")


class TestDeterminism:
    """Gradients in no fixed order are refused where torch is told to refuse them."""

    WANTING = replace(PLAIN, needs_grad=True)
    SET = "sums gradients in no fixed order"

    @pytest.mark.parametrize(
        ("backend", "gpu", "dim", "reason"),
        [
            (FlashAttention2Backend(), (8, 0), 256, ""),
            (FlashAttention3Backend(), (9, 0), 192, ""),
            (FlashAttention3Backend(), (9, 0), 200, f"beyond head dimensions of 192 it {SET}, got D=200"),
            (FlashAttention4Backend(), (10, 0), 128, ""),
            (FlashAttention4Backend(), (9, 0), 128, f"on compute capability 9.x it {SET}"),
        ],
    )
    def test_of_each_library(self, backend, gpu, dim: int, reason: str) -> None:
        wanting = replace(self.WANTING, head_dim=dim, value_dim=dim)
        with installed(FLASH_2, FLASH_3, FLASH_4, capability=gpu):
            assert backend.unsupported_reasons(wanting) == []
            with deterministic():
                given = backend.unsupported_reasons(wanting)
                assert backend.unsupported_reasons(replace(wanting, needs_grad=False)) == []
            with deterministic(warn_only=True):
                assert backend.unsupported_reasons(wanting) == []
        expected = [f"{reason}, and torch.use_deterministic_algorithms is set"] if reason else []
        assert given == expected

    def test_of_a_version_that_cannot_be_asked(self) -> None:
        def flash_attn_func(
            q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), return_attn_probs=False
        ):
            raise AssertionError

        with installed(FLASH_3), deterministic():
            sys.modules[FLASH_3].flash_attn_func = flash_attn_func
            (given,) = FlashAttention3Backend().unsupported_reasons(self.WANTING)
        assert given == (
            "its installed version sums gradients in no fixed order, and torch.use_deterministic_algorithms "
            "is set"
        )


class TestOnDisk:
    """Packages are looked for by their files, and imported only once nothing else is in the way."""

    @pytest.fixture
    def site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.syspath_prepend(tmp_path)
        libraries._is_installed.cache_clear()
        libraries._imported.cache_clear()
        libraries._faults.cache_clear()
        yield tmp_path
        for one in (libraries._is_installed, libraries._imported, libraries._faults):
            one.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0].startswith("flash_attn")]:
            del sys.modules[name]

    def test_none(self, site: Path) -> None:
        assert not libraries.any_is_installed()

    def test_version_4_beside_no_version_2(self, site: Path) -> None:
        (site / "flash_attn" / "cute").mkdir(parents=True)
        assert libraries.FLASH_ATTENTION_4.is_installed()
        assert not libraries.FLASH_ATTENTION_2.is_installed()
        assert libraries.any_is_installed()
        assert "flash_attn" not in sys.modules

    @pytest.mark.parametrize("error", ["ImportError", "OSError", "AttributeError", "TypeError", "KeyError"])
    def test_one_that_cannot_be_imported(
        self, site: Path, monkeypatch: pytest.MonkeyPatch, error: str
    ) -> None:
        broken = f"class Met({error}):\n    __str__ = lambda self: 'undefined symbol: _ZN3c10'\nraise Met\n"
        (site / "flash_attn_interface.py").write_text(broken.replace("Met", f"{error}Met"))
        monkeypatch.setattr("saccade.backends.flash.backend.capability", lambda: (9, 0))
        (given,) = FlashAttention3Backend().unsupported_reasons(PLAIN)
        assert given.startswith(
            "its package flash_attn_interface is installed and cannot be imported "
            f"({error}Met: undefined symbol: _ZN3c10); reinstall it for this torch"
        )

    def test_one_that_comes_from_no_file(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))  # its __spec__ is None
        monkeypatch.setattr("saccade.backends.flash.backend.capability", lambda: (8, 0))
        (given,) = FlashAttention2Backend().unsupported_reasons(PLAIN)
        assert given.startswith("its package flash_attn is not installed")

    def test_one_whose_functions_are_none(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (site / "flash_attn_interface.py").write_text("flash_attn_func = 3\nflash_attn_varlen_func = dict\n")
        monkeypatch.setattr("saccade.backends.flash.backend.capability", lambda: (9, 0))
        (given,) = FlashAttention3Backend().unsupported_reasons(PLAIN)
        assert given.startswith("the installed flash_attn_interface has no flash_attn_func(softmax_scale=)")

    def test_capability_is_that_of_the_current_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
        monkeypatch.setattr("torch.version.hip", None)
        assert libraries.capability() == (9, 0)
        monkeypatch.setattr("torch.version.hip", "6.2")
        assert libraries.capability() is None


def test_the_module_of_stand_ins_is_gone_afterwards() -> None:
    with installed(FLASH_3):
        assert isinstance(sys.modules[FLASH_3], ModuleType)
    assert FLASH_3 not in sys.modules
