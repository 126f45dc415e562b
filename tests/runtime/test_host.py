"""Which instruction sets a processor is said to run, and what its caches hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saccade.codegen.cpu.isa import ISAS
from saccade.errors import SettingError
from saccade.runtime import host
from saccade.runtime.host import FALLBACK_CACHES, Host, describe_host, host_isa, this_host

# As LLVM reports of real processors.
NEHALEM = dict.fromkeys(("cx16", "popcnt", "sahf", "sse2", "sse3", "sse4.1", "sse4.2", "ssse3"), True)
HASWELL = NEHALEM | dict.fromkeys(
    ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave", "aes"), True
)
SKYLAKE_SERVER = HASWELL | dict.fromkeys(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"), True)
ZEN_4 = SKYLAKE_SERVER | {"avx512bf16": True}
NOWHERE = Path("/no/such/directory")


def isas(features: dict[str, bool], machine: str = "x86_64") -> tuple[str, ...]:
    return describe_host(features, machine, NOWHERE).isas


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (ZEN_4, "avx512_bf16 avx512 avx2 baseline"),
        (SKYLAKE_SERVER, "avx512 avx2 baseline"),
        (SKYLAKE_SERVER | {"avx512bf16": False}, "avx512 avx2 baseline"),
        (HASWELL, "avx2 baseline"),
        (NEHALEM, "baseline"),
        # A hypervisor may hide anything: one feature less takes its set away, and what rests on it.
        (ZEN_4 | {"avx512dq": False}, "avx2 baseline"),
        (ZEN_4 | {"f16c": False}, "baseline"),
        (ZEN_4 | {"movbe": False}, "baseline"),
    ],
)
def test_a_name_needs_every_feature(features: dict[str, bool], names: str) -> None:
    assert isas(features) == tuple(names.split())


def test_other_architectures() -> None:
    assert isas(ZEN_4, "AMD64") == isas(ZEN_4)
    assert isas({"neon": True}, "aarch64") == isas({}, "arm64") == ("neon",)
    assert isas({}, "riscv64") == ()


def test_code_uses_only_features_that_were_asked_for() -> None:
    for isa in ISAS.values():
        needed = host._NEEDS[isa.arch][isa.name]
        levels = {"x86-64": frozenset(), "x86-64-v3": host._V3, "x86-64-v4": host._V4, "generic": frozenset()}
        used = {feature[1:] for feature in isa.features.split(",") if feature.startswith("+")} - {"neon"}
        assert used | levels[isa.cpu] <= needed, isa.name
    assert {isa.name for isa in ISAS.values()} == {name for needs in host._NEEDS.values() for name in needs}


class TestChoice:
    HOST = Host(("avx2", "baseline"), 1, 1, 1, 1)

    def test_the_best_unless_limited(self) -> None:
        assert self.HOST.isa() == "avx2"
        assert self.HOST.isa("baseline") == "baseline"

    def test_baseline_is_the_least_of_any_architecture(self) -> None:
        assert Host(("neon",), 1, 1, 1, 1).isa("baseline") == "neon"

    def test_what_the_processor_lacks_is_refused(self) -> None:
        expected = (
            "SACCADE_CPU_ISA must name an instruction set that this processor can run, "
            "one of avx2, baseline, but SACCADE_CPU_ISA='avx512'; name one, or unset it for the best."
        )
        with pytest.raises(SettingError, match=re.escape(expected)):
            self.HOST.isa("avx512")

    def test_the_setting_counts_at_each_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "this_host", lambda: self.HOST)
        monkeypatch.delenv("SACCADE_CPU_ISA", raising=False)
        assert host_isa() == "avx2"
        monkeypatch.setenv("SACCADE_CPU_ISA", "baseline")
        assert host_isa() == "baseline"
        monkeypatch.setenv("SACCADE_CPU_ISA", "avx512_bf16")
        with pytest.raises(SettingError, match="one of avx2, baseline"):
            host_isa()


class TestCaches:
    def test_linux_tells_their_sizes(self, tmp_path: Path) -> None:
        for cpu in range(256):
            for place, (level, kind, size) in enumerate(
                [
                    (1, "Data", "48K"),
                    (1, "Instruction", "64K"),
                    (2, "Unified", "2M"),
                    (3, "Unified", "32768K"),
                ]
            ):
                directory = tmp_path / f"cpu{cpu}" / "cache" / f"index{place}"
                directory.mkdir(parents=True)
                for name, text in {"level": str(level), "type": kind, "size": size}.items():
                    (directory / name).write_text(text + "\n")
        told = describe_host({}, "x86_64", tmp_path)
        assert (told.l1d_bytes, told.l2_bytes, told.l3_bytes) == (48 << 10, 2 << 20, 32 << 20)

    def test_what_is_not_told_falls_back_level_by_level(self, tmp_path: Path) -> None:
        for cpu in range(256):
            directory = tmp_path / f"cpu{cpu}" / "cache" / "index0"
            directory.mkdir(parents=True)
            for name, text in {"level": "2", "type": "Unified", "size": "1024K"}.items():
                (directory / name).write_text(text)
            (tmp_path / f"cpu{cpu}" / "cache" / "index1").mkdir()
        told = describe_host({}, "x86_64", tmp_path)
        assert (told.l1d_bytes, told.l2_bytes, told.l3_bytes) == (
            FALLBACK_CACHES[1],
            1 << 20,
            FALLBACK_CACHES[3],
        )

    def test_without_linux_all_fall_back(self) -> None:
        told = describe_host({}, "arm64", NOWHERE)
        assert (told.l1d_bytes, told.l2_bytes, told.l3_bytes) == tuple(FALLBACK_CACHES.values())


def test_this_host_has_kernels_and_cores() -> None:
    assert this_host().isas
    assert this_host().cores >= 1
    assert this_host() is this_host()
