"""How long it takes to read a mod: mods as people write them, and single operations.

A mod is traced at every call of `flex_attention`, so this time is paid each time. Every program is checked
against its mod on index tensors before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from saccade.bench.machine import describe_machine
from saccade.bench.report import Measurement, Report
from saccade.bench.timing import Timing, time_in_turns
from saccade.errors import CheckError
from saccade.masks import causal, document, local, natten, prefix_lm, sliding_window
from saccade.scores import alibi, bias, relative_bias, softcap
from saccade.signatures import MaskMod, Mod, ScoreMod
from saccade.tracing import trace

__all__ = ["bench_trace", "ten_ops"]

_SIZE = 64  # positions of the tables below
_LONG_CHAIN, _SHORT_CHAIN = 48, 16
_SAMPLE_S = 0.005


def ten_ops(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Ten operations: causal, within a window or in a prefix, one head in two looking at every second key."""
    near = (q_idx >= kv_idx) & (q_idx - kv_idx < 256)  # 4 operations
    return near | (kv_idx < 16) & ((kv_idx + h) % 2 == 0)  # 6 more


def bench_trace(
    *, rounds: int = 7, orientation: bool = True, progress: Callable[[str], object] = lambda step: None
) -> Report:
    """Check and time `saccade.trace`.

    Args:
        rounds: Samples of each mod.
        orientation: Whether torch's make_fx is timed on the ten-op mod too.
        progress: Told what comes next.

    Returns:
        The measurements: mods as cases "mod: NAME", single operations as "op: NAME" with the time that one
        more of them costs.
    """
    measured: list[Measurement] = []
    progress("mods")
    mods = _mods()
    for name, mod in mods.items():
        _check(name, mod)
    contenders: dict[str, Callable[[], object]] = {name: _tracer(mod) for name, mod in mods.items()}
    for name, timing in time_in_turns(contenders, rounds=rounds, sample_s=_SAMPLE_S).items():
        measured.append(Measurement(f"mod: {name}", "saccade", {}, timing))
    progress("single operations")
    measured.extend(_operation_costs(rounds))
    if orientation:
        progress("torch's make_fx")
        index = torch.tensor(3)
        timing = time_in_turns(
            {"make_fx": lambda: make_fx(ten_ops)(index, index, index, index)},
            rounds=rounds,
            sample_s=_SAMPLE_S,
        )["make_fx"]
        measured.append(Measurement("mod: ten_ops", "torch make_fx", {}, timing))
    return Report("trace", describe_machine(), tuple(measured))


def _mods() -> dict[str, Mod]:
    """Mods as people write them, the ten-op one first."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(_SIZE, _SIZE, generator=generator)
    distances = torch.randn(2, 2 * _SIZE - 1, generator=generator)
    return {
        "ten_ops": ten_ops,
        "causal": causal,
        "sliding_window(32)": sliding_window(32),
        "causal & local(left=9, right=9)": causal & local(left=9, right=9),
        "prefix_lm(16)": prefix_lm(16),
        "causal & document(lengths)": causal & document(lengths=[_SIZE // 4, 3 * _SIZE // 4]),
        "natten((8, 8), 3)": natten((8, 8), 3),
        "alibi(n_heads=8)": alibi(n_heads=8),
        "softcap(20.0)": softcap(20.0),
        "bias(table)": bias(table),
        "relative_bias(table)": relative_bias(distances),
    }


def _operations() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """One step of a chain for each kind of operation, from (score, q_idx, kv_idx) to the next score."""
    table = torch.randn(_SIZE, generator=torch.Generator().manual_seed(1))
    return {
        "score + number": lambda score, q_idx, kv_idx: score + 1.5,
        "score * score": lambda score, q_idx, kv_idx: score * score,
        "q_idx >= kv_idx, where": lambda score, q_idx, kv_idx: torch.where(q_idx >= kv_idx, score, 0.0),
        "table[kv_idx], +": lambda score, q_idx, kv_idx: score + table[kv_idx],
        "torch.tanh": lambda score, q_idx, kv_idx: torch.tanh(score),
        "F.silu": lambda score, q_idx, kv_idx: F.silu(score),
    }


def _operation_costs(rounds: int) -> list[Measurement]:
    """Time chains of two lengths of each operation; their difference is what one more costs."""
    contenders: dict[str, Callable[[], object]] = {}
    operations = _operations()
    for name, step in operations.items():
        for count in (_LONG_CHAIN, _SHORT_CHAIN):
            contenders[f"{name} {count}"] = _tracer(_chain(step, count))
    timings = time_in_turns(contenders, rounds=rounds, sample_s=_SAMPLE_S)
    return [
        Measurement(
            f"op: {name}",
            "saccade",
            {"chain": _LONG_CHAIN - _SHORT_CHAIN},
            _difference(timings, f"{name} {_LONG_CHAIN}", f"{name} {_SHORT_CHAIN}"),
        )
        for name in operations
    ]


def _difference(timings: Mapping[str, Timing], long: str, short: str) -> Timing:
    """The time of one operation, sample by sample."""
    pairs = zip(timings[long].samples_s, timings[short].samples_s, strict=True)
    samples = tuple((more - less) / (_LONG_CHAIN - _SHORT_CHAIN) for more, less in pairs)
    return Timing(samples[0], samples, timings[long].calls)


def _chain(step: Callable[[Tensor, Tensor, Tensor], Tensor], count: int) -> ScoreMod:
    def chain(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        for _ in range(count):
            score = step(score, q_idx, kv_idx)
        return score

    return chain


def _tracer(mod: MaskMod | ScoreMod) -> Callable[[], object]:
    return lambda: trace(mod)


def _check(name: str, mod: Mod) -> None:
    """Assert that a mod's program gives what the mod gives, on a grid of pairs of one head."""
    q_idx, kv_idx = torch.arange(_SIZE)[:, None], torch.arange(_SIZE)
    indices = (torch.tensor(0), torch.tensor(1), q_idx, kv_idx)
    program = trace(mod)
    score = (torch.linspace(-4, 4, _SIZE),) if program.kind.name == "SCORE" else ()
    function: Callable[..., object] = mod
    expected = torch.as_tensor(function(*score, *indices))
    got = torch.as_tensor(program(*(argument.numpy() for argument in (*score, *indices))))
    if not torch.allclose(got.double(), expected.double(), rtol=1e-5, atol=1e-5):
        raise CheckError(f"the program of {name} must give what the mod gives, but does not:\n{program}")
