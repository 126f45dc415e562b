"""`saccade doctor`: what this installation can do and why not more, then its facts as text to paste.

Owns the findings. The facts of the machine are `bench.machine`'s, the backends' reasons their own, the checks
of `--selftest` those of `bench.selftest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from saccade import settings
from saccade.backends.registry import candidates
from saccade.bench.machine import Machine, describe_machine, find_compiler
from saccade.bench.selftest import SelftestCase, SelftestResult, run_selftest, selftest_cases
from saccade.cli import quantities
from saccade.errors import SettingError
from saccade.ir.dtype import DType
from saccade.masks import sliding_window
from saccade.planner import reasons_against
from saccade.problem import AttentionProblem, BlockFacts, ModFacts
from saccade.runtime.host import host_isa, this_host
from saccade.runtime.triton import describe_device, is_available
from saccade.scores import softcap
from saccade.signatures import Mod
from saccade.tracing import trace

__all__ = ["Finding", "facts", "findings", "print_diagnosis", "selftest_facts", "selftest_findings"]


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing about an installation.

    Attributes:
        good: Whether it needs nobody's attention.
        text: What it is and, where something can be done, what.
    """

    good: bool
    text: str


def print_diagnosis(console: Console, *, selftest: bool = False) -> bool:
    """Print the findings, then the facts as plain text.

    Args:
        console: Where to print.
        selftest: Whether to run the selftest too; its outcome stands among both.

    Returns:
        Whether nothing is broken: settings hold usable values, some backend takes each kind of call, and the
        selftest, where it was asked for, found no fault.
    """
    machine = describe_machine()
    found = findings(machine)
    told = facts(machine)
    if selftest:
        results = _run_with_progress(selftest_cases(), console)
        found += selftest_findings(results)
        told += selftest_facts(results)
    for finding in found:
        mark = "[green]✓[/]" if finding.good else "[yellow]![/]"
        console.print(f"{mark} ", end="")
        console.print(finding.text, markup=False, highlight=False)
    console.print("\nText to paste into a report:\n", style="bold")
    width = max(len(name) for name, _ in told)
    for name, value in told:
        console.print(f"{name:<{width}}  {value}", markup=False, highlight=False, soft_wrap=True)
    return all(finding.good for finding in found)


def _run_with_progress(cases: Sequence[SelftestCase], console: Console) -> tuple[SelftestResult, ...]:
    """Run the selftest under a bar that names the present case."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=len(cases), completed=-1)
        results = run_selftest(
            cases, progress=lambda name: progress.update(task, description=escape(name), advance=1)
        )
        progress.advance(task)
    return results


def selftest_findings(results: Sequence[SelftestResult]) -> list[Finding]:
    """Say whether the selftest passed, and what failed."""
    failed = [result for result in results if result.faults]
    if not failed:
        return [Finding(True, f"The selftest passed: {_summary(results)}.")]
    return [Finding(False, f"The selftest failed for {result.name}: {result.faults[0]}") for result in failed]


def selftest_facts(results: Sequence[SelftestResult]) -> list[tuple[str, str]]:
    """The outcome of the selftest for a report, every fault with it."""
    failed = [result for result in results if result.faults]
    outcome = f"{len(failed)} of {len(results)} mods failed" if failed else f"passed, {_summary(results)}"
    faults = [(f"selftest {result.name}", "; ".join(result.faults)) for result in failed]
    return [("selftest", outcome), *faults]


def _summary(results: Sequence[SelftestResult]) -> str:
    checks = sum(result.checks for result in results)
    elapsed = sum(result.seconds for result in results)
    return f"{len(results)} mods, {checks} results compared in {quantities.seconds(elapsed)}"


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
    return found + [Finding(False, problem) for problem in _problems_of_settings()]


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
        ("CPU kernels", _kernels()),
        ("accelerator", machine.accelerator or "none"),
        ("GPU kernels", _gpu_kernels(_device(machine))),
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


def _problems_of_settings() -> list[str]:
    """What is wrong with settings, each problem once: by themselves, or on this processor."""
    problems = [report.problem for report in settings.report() if report.problem is not None]
    if this_host().isas:
        try:
            host_isa()
        except SettingError as fault:
            problems.append(str(fault))
    return list(dict.fromkeys(problems))


def _kernels() -> str:
    """What kernels can be compiled for here, the best first."""
    return " ".join(this_host().isas) or "none for this architecture"


def _gpu_kernels(device: str) -> str:
    """What Triton compiles kernels for here, or why it does not."""
    return is_available(device) or describe_device(torch.device(device)).target.name


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
