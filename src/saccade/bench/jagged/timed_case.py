"""One jagged batch by everyone in it: every sequence checked against float64, then timed in turns."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from saccade.bench.agreement import GradientCheck
from saccade.bench.contenders import Contender, Workload, make_block_mask, tried
from saccade.bench.cpu.cases import DTYPES
from saccade.bench.cpu.outcome import Outcome
from saccade.bench.cpu.pauses import time_apart
from saccade.bench.jagged.cases import JaggedCase
from saccade.bench.jagged.peers import OURS, participants, torch_unheard
from saccade.bench.oracle import mask_rows
from saccade.bench.train.timed_case import FORWARD_PASS, PASSES, time_pass
from saccade.masks import jagged

__all__ = ["checked_participants", "make_workload", "sequence_by_sequence", "time_case"]


def time_case(case: JaggedCase, *, backend: str, rounds: int) -> list[Outcome]:
    """Check everyone in a case, then time them.

    Args:
        case: What to measure.
        backend: The backend of ours.
        rounds: Samples of each contender.

    Returns:
        An outcome each for forward, backward, and both: times, and why who is missing did not run.

    Raises:
        CheckError: A contender computes something else.
    """
    work = make_workload(case)
    entered = checked_participants(case, work, backend=backend)
    pause = partial(time_apart, rounds=rounds)
    return [
        time_pass(timed, str(case), case.labels, work, entered, pause)
        for timed in (FORWARD_PASS, *PASSES.values())
    ]


def make_workload(case: JaggedCase) -> Workload:
    """Return a case as one packed call, the same in every run.

    Args:
        case: What is measured.
    """
    batch = case.sequences
    inputs = batch.inputs(DTYPES[case.dtype])
    mask_mod = jagged(case.mask_mod, batch.offsets)
    return Workload(
        None, mask_mod, make_block_mask(mask_mod, batch.size, inputs[0].device), batch.size, inputs
    )


def checked_participants(case: JaggedCase, work: Workload, *, backend: str) -> list[Contender]:
    """Return who takes part, output and gradients checked; a peer that fails becomes one that does not run.

    Args:
        case: What is measured.
        work: The same as one packed call.
        backend: The backend of ours.

    Raises:
        CheckError: A contender computes something else.
    """
    check = GradientCheck(work, partial(sequence_by_sequence, case))
    with torch_unheard():
        return [
            tried(one, one.name != OURS, partial(check, one))
            for one in participants(case, work, backend=backend)
        ]


def sequence_by_sequence(case: JaggedCase, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute attention the plain way, one sequence after the other: the truth, in the dtype of the inputs.

    Args:
        case: Whose sequences and pattern.
        query: `[1, H, S, D]`, packed.
        key: The same.
        value: The same.

    Returns:
        `[1, H, S, D]`, packed.
    """
    # One split, not a slice each: the gradient of every slice would be as large as the whole batch.
    lengths = case.sequences.lengths.tolist()
    sequences = zip(*(torch.split(packed, lengths, dim=2) for packed in (query, key, value)), strict=True)
    outputs = []
    for q, k, v in sequences:
        length, head_dim = q.shape[2:]
        visible = mask_rows(case.mask_mod, 0, 0, range(length), length)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(head_dim)).masked_fill(~visible, -math.inf)
        outputs.append(scores.softmax(dim=-1) @ v)
    return torch.cat(outputs, dim=2)
