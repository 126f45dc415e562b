"""The fuzzer: random calls of the CPU engine and their gradients, for as long as told, held against float64.

    python -m fuzz --minutes 60 --seed 7      what `make fuzz` runs
    python -m fuzz "Call(lengths=(3, 5))"     one call, as a fault is reported

Calls run in a process of their own: if that dies or hangs, or an answer is wrong, the call is simplified and
printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from fuzz.call import Backward, Blocks, Call, Mod, Table
from fuzz.check import complaint
from fuzz.draw import family
from fuzz.simplify import simplest
from saccade.runtime.host import this_host

CALLS = 10  # of a family
PATIENCE = 120  # seconds after which a call hangs
_COMMAND = ["-m", "fuzz"]
_NAMES = {each.__name__: each for each in (Backward, Blocks, Call, Mod, Table)} | {"inf": float("inf")}


@dataclass(frozen=True)
class Fault:
    """A call that went wrong."""

    call: Call
    complaint: str

    @property
    def kind(self) -> str:
        """What a simpler call must share to be the same fault."""
        return self.complaint.split("[")[0].split(":")[0]

    def report(self) -> str:
        call = shlex.quote(repr(self.call))
        return f"{self.complaint}\n\nPYTHONPATH=src:tests {sys.executable} -m fuzz {call}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=_Raw)
    parser.add_argument("call", nargs="*", help="calls to make, in this process")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--all", action="store_true", help="go on after a fault")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--simplify", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        return _serve(given.serve)
    if given.simplify is not None:
        return _simplify(_read(given.simplify))
    if given.call:
        faults = [said for text in given.call if (said := _said(_read(text)))]
        print("\n".join(faults) or "right")
        return 1 if faults else 0
    return _hunt(given.seed, given.minutes, go_on=given.all)


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description."""


def _hunt(seed: int, minutes: float, *, go_on: bool) -> int:
    """Run seeds until time is up, and report faults."""
    begun, faults, calls = time.monotonic(), 0, 0
    while (spent := time.monotonic() - begun) < 60 * minutes:
        for step in _watch(seed, 60 * minutes - spent):
            if isinstance(step, Fault):
                faults += 1
                print(f"\n\nfault {faults}, of seed {seed}: {_simplified(step).report()}\n", flush=True)
                if not go_on:
                    return 1
                seed += 1
            elif step != seed:
                seed = step
            else:
                calls += 1
            spent = time.monotonic() - begun
            line = f"\r{spent / 60:.1f} of {minutes:g} min, seed {seed}, {calls} calls, {faults} faults "
            print(line, end="", flush=True)
    print()
    return 1 if faults else 0


def _watch(seed: int, seconds: float) -> Iterator[int | Fault]:
    """Have a process run families from a seed on; yields each call's seed, and the fault it ends with."""
    command = [sys.executable, *_COMMAND, "--serve", str(seed)]
    deadline = time.monotonic() + seconds
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        call = None
        try:
            while time.monotonic() < deadline:
                line = _line_of(process)
                if line is None:
                    process.kill()
                    yield Fault(call or Call((1, 1)), f"hang: no answer in {PATIENCE} s")
                    return
                if not line:
                    process.wait()
                    text = process.stderr.read()[-3000:]
                    yield Fault(call or Call((1, 1)), _death(process.returncode, text))
                    return
                word, _, rest = line.rstrip("\n").partition(" ")
                if word == "call":
                    at, _, text = rest.partition(" ")
                    call = _read(text)
                    yield int(at)
                elif word == "wrong":
                    assert call is not None
                    yield Fault(call, eval(rest))
                    return
        finally:
            process.kill()
            process.stderr.close()


def _line_of(process: subprocess.Popen[str]) -> str | None:
    """The next line; empty at the end, None if there is none for too long."""
    assert process.stdout is not None

    def give_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        return process.stdout.readline()
    except TimeoutError:
        return None
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _serve(seed: int) -> int:
    """Run families for ever, telling each call before it is made, until one is wrong."""
    faulthandler.enable()
    while True:
        for call in family(seed, CALLS, this_host().isas):
            print("call", seed, call, flush=True)
            said = _said(call)
            if said:
                print("wrong", repr(said), flush=True)
                return 1
        seed += 1


def _simplified(fault: Fault) -> Fault:
    """The fault of a simpler call: sought in one process, or, if calls end that, in one for each call."""
    command = [sys.executable, *_COMMAND, "--simplify", repr(fault.call)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        call = _read(done.stdout.strip().splitlines()[-1])
    else:
        call = simplest(fault.call, lambda call: _kind_alone(call) == fault.kind, tries=100)
    return Fault(call, _alone(call) or fault.complaint)


def _simplify(call: Call) -> int:
    """Simplify a call in this process, and print the outcome."""
    kind = Fault(call, _said(call) or "").kind
    print(simplest(call, lambda simpler: Fault(simpler, _said(simpler) or "").kind == kind))
    return 0 if kind else 1


def _said(call: Call) -> str | None:
    """What is wrong with a call's answer; an error that nobody expects is."""
    try:
        return complaint(call)
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"


def _alone(call: Call) -> str | None:
    """The same of a call in a process of its own, whose death is a complaint too."""
    command = [sys.executable, *_COMMAND, repr(call)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"hang: no answer in {PATIENCE} s"
    if done.returncode == 0:
        return None
    return done.stdout.strip() if done.returncode == 1 else _death(done.returncode, done.stderr[-3000:])


def _kind_alone(call: Call) -> str | None:
    said = _alone(call)
    return None if said is None else Fault(call, said).kind


def _death(status: int, text: str) -> str:
    name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"the process ended with {name}: {text}"


def _read(text: str) -> Call:
    call = eval(text, dict(_NAMES))
    assert isinstance(call, Call), f"expected a Call, got {text!r}"
    return call


if __name__ == "__main__":
    sys.exit(main())
