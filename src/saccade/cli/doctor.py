"""`saccade doctor`: what this installation can do and why not more, then its facts as text to paste.

Owns the findings. The facts of the machine are `bench.machine`'s, the backends' reasons their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Console

from saccade import settings
from saccade.backends.registry import candidates
from saccade.bench.machine import Machine, describe_machine, find_compiler
from saccade.cli import quantities
from saccade.ir.dtype import DType
from saccade.masks import sliding_window
from saccade.planner import reasons_against
from saccade.problem import AttentionProblem, BlockFacts, ModFacts
from saccade.scores import softcap
from saccade.signatures import Mod
from saccade.tracing import trace

__all__ = ["Finding", "facts", "findings", "print_diagnosis"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing about an installation.

    Attributes:
        good: Whether it needs nobody's attention.
        text: What it is and, where something can be done, what.
    """

    good: bool
    text: str


def print_diagnosis(console: Console) -> bool:
    """Print the findings, then the facts as plain text.

    Returns:
        Whether nothing is broken: settings hold usable values, and some backend takes each kind of call.
    """
    machine = describe_machine()
    found = findings(machine)
    for finding in found:
        mark = "[green]✓[/]" if finding.good else "[yellow]![/]"
        console.print(f"{mark} ", end="")
        console.print(finding.text, markup=False, highlight=False)
    console.print("\nText to paste into a report:\n", style="bold")
    width = max(len(name) for name, _ in facts(machine))
    for name, value in facts(machine):
        console.print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)
    return all(finding.good for finding in found)


def findings(machine: Machine) -> list[Finding]:
    """Say what works here, what does not, and what can be done about it."""
    found = [_who_runs(name, problem) for name, problem in _probes(_device(machine)).items()]
    compiler = find_compiler()
    if compiler is None:
        found.append(
            Finding(
                True, "No C++ compiler is on the path; only torch's own compiled kernels on a CPU need one."
            )
        )
    else:
        found.append(
            Finding(True, f"A C++ compiler is at {compiler}; torch.compile can use it, Saccade needs none.")
        )
    found += [Finding(False, report.problem) for report in settings.report() if report.problem is not None]
    return found


def facts(machine: Machine) -> list[tuple[str, str]]:
    """List the facts of an installation as names and values, for a report to the maintainers."""
    versions = [(name, version or "not installed") for name, version in machine.versions.items()]
    hardware = [
        ("system", machine.system),
        ("processor", machine.processor),
        ("instruction sets", " ".join(machine.features) or "not known"),
        (
            "cores",
            f"{machine.cores} usable, torch works with {quantities.counted(machine.threads, 'thread')}",
        ),
        ("memory", quantities.memory(machine.memory_bytes)),
        ("accelerator", machine.accelerator or "none"),
        ("C++ compiler", find_compiler() or "none"),
    ]
    device = _device(machine)
    backends = [
        (f"backend {name}", "; ".join(_reasons(name, device)) or "takes every kind of call probed")
        for name in candidates(device)
    ]
    given = [
        (report.name, report.value + (" (default)" if report.is_default else ""))
        for report in settings.report()
    ]
    return versions + hardware + backends + given


def _device(machine: Machine) -> str:
    return "cpu" if machine.accelerator is None else "cuda"


def _probes(device: str) -> dict[str, AttentionProblem]:
    """Kinds of calls that tell the backends apart, small enough for each."""
    plain = AttentionProblem(device, DType.FLOAT32, 1, 1, 4, 4, 512, 512, 64, 64, scale=0.125)
    masked = replace(
        plain, block_mask=BlockFacts(_facts_of(sliding_window(128)), 1, 1, 128, 128, analysed=True)
    )
    scored = replace(masked, score=_facts_of(softcap(20.0)))
    return {
        "plain attention": plain,
        "a mask": masked,
        "a mask and a score_mod": scored,
        "a mask, a score_mod and gradients": replace(scored, needs_grad=True),
    }


def _facts_of(mod: Mod) -> ModFacts:
    program = trace(mod)
    return ModFacts(program.structure, program.numbers)


def _who_runs(kind: str, problem: AttentionProblem) -> Finding:
    """Which backends take a kind of call, the one that `auto` prefers first."""
    takers = [
        name for name in candidates(problem.device) if not reasons_against(problem, name, asked_by_name=True)
    ]
    if not takers:
        return Finding(False, f"No backend takes {kind} on {problem.device}.")
    others = f" (also {', '.join(takers[1:])})" if takers[1:] else ""
    return Finding(True, f"{kind[0].upper()}{kind[1:]} on {problem.device}: runs on {takers[0]}{others}.")


def _reasons(name: str, device: str) -> list[str]:
    """Why a backend refuses some kind of call: each reason once, in order."""
    reasons = (
        reason
        for problem in _probes(device).values()
        for reason in reasons_against(problem, name, asked_by_name=True)
    )
    return list(dict.fromkeys(reasons))
