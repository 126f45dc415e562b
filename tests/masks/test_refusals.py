"""Every argument that a mask cannot use is refused with what was expected, what was given and what to do."""

from __future__ import annotations

import pytest
import torch

from saccade.errors import ArgumentError, ArgumentTypeError, DTypeError, ModError, ShapeError
from saccade.masks import (
    causal,
    create_padding_mask,
    dense,
    document,
    local,
    natten,
    padding,
    prefix_lm,
    shift,
)
from saccade.masks import sliding_window as window

INTS, FLOATS, BOOLS = torch.tensor([0, 1]), torch.tensor([0.0, 1.0]), torch.tensor([True, False])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: window(0), ArgumentError, r"sliding_window\(\): window must be at least 1, got 0"),
        (lambda: window(-3), ArgumentError, "window must be at least 1, got -3"),
        (lambda: window(2.5), ArgumentTypeError, "window must be an integer, got float 2.5"),
        (lambda: window(True), ArgumentTypeError, "window must be an integer, got bool True"),
        (lambda: local(-1, 0), ArgumentError, r"local\(\): left must be at least 0, got -1"),
        (lambda: local(0, -2), ArgumentError, r"local\(\): right must be at least 0, got -2"),
        (lambda: local("1", 0), ArgumentTypeError, "left must be an integer, got str '1'"),
        (lambda: prefix_lm(-1), ArgumentError, r"prefix_lm\(\): prefix must be at least 0, got -1"),
        (lambda: prefix_lm(None), ArgumentTypeError, "prefix must be an integer, got NoneType None"),
        (
            lambda: prefix_lm(FLOATS),
            DTypeError,
            r"prefix must be of an integer dtype, got dtype=torch.float32",
        ),
        (lambda: prefix_lm(INTS[None]), ShapeError, r"a tensor \[B\], got shape=\[1, 2\]; flatten it"),
        (lambda: shift(causal, q=0.5), ArgumentTypeError, r"shift\(\): q must be an integer, got float 0.5"),
        (
            lambda: shift(causal, kv=BOOLS),
            DTypeError,
            r"shift\(\): kv must be of an integer dtype.*torch.bool",
        ),
        (lambda: shift(3), ModError, r"shift\(\) expects mods.*got the int 3"),
        (lambda: document(), ArgumentError, "exactly one of ids, lengths and cu_seqlens, got none"),
        (
            lambda: document(INTS, lengths=[2]),
            ArgumentError,
            "exactly one of ids, lengths and cu_seqlens, got ids and lengths; of several",
        ),
        (lambda: document(lengths=[2], kv_ids=INTS), ArgumentError, "kv_ids goes with ids, got lengths"),
        (lambda: document(FLOATS), DTypeError, "ids must be of an integer dtype, got dtype=torch.float32"),
        (lambda: document(INTS[0]), ShapeError, r"ids must be \[S\] or \[B, S\], got shape=\[\]"),
        (lambda: document(INTS, kv_ids=FLOATS), DTypeError, "kv_ids must be of an integer dtype"),
        (lambda: document(INTS, kv_ids=INTS[0]), ShapeError, r"kv_ids must be \[K\] or \[B, K\]"),
        (
            lambda: document(lengths=[3, -1]),
            ArgumentError,
            r"lengths must be 0 or more, got lengths=\[3, -1\]",
        ),
        (
            lambda: document(lengths=[1.5]),
            DTypeError,
            "lengths must be of an integer dtype, got dtype=torch.f",
        ),
        (
            lambda: document(lengths=3),
            ArgumentTypeError,
            r"lengths must be a list of ints.*got int 3; write one",
        ),
        (
            lambda: document(cu_seqlens="ab"),
            ArgumentTypeError,
            "cu_seqlens must be a list of ints .*got str 'ab'",
        ),
        (lambda: document(lengths=["a"]), ArgumentTypeError, r"must be a list of ints .*got list \['a'\]"),
        (
            lambda: padding(lengths=3),
            ArgumentTypeError,
            r"padding\(\): lengths must be a list of ints .*got int 3",
        ),
        (lambda: document(lengths=INTS[None]), ShapeError, r"lengths must have one axis, got shape=\[1, 2\]"),
        (
            lambda: document(cu_seqlens=[1, 2]),
            ArgumentError,
            r"cu_seqlens must start at 0 and never fall.*\[1, 2\]",
        ),
        (lambda: document(cu_seqlens=[0, 4, 3]), ArgumentError, r"never fall.*\[0, 4, 3\]; for the lengths"),
        (lambda: document(cu_seqlens=[]), ArgumentError, r"must start at 0.*cu_seqlens=\[\]"),
        (lambda: padding(), ArgumentError, "exactly one of pads, keep and lengths, got none"),
        (lambda: padding(keep=INTS, lengths=[1]), ArgumentError, "got keep and lengths; of several"),
        (lambda: padding(pads=INTS[None]), DTypeError, "pads must be bool, True = padding.*int64.*use keep="),
        (lambda: padding(keep=FLOATS[None]), DTypeError, "keep must be bool or 0/1 integers.*float32"),
        (lambda: padding(pads=BOOLS), ShapeError, r"pads must be \[B, K\], got shape=\[2\]; add the batch"),
        (lambda: padding(keep=INTS), ShapeError, r"keep must be \[B, K\], got shape=\[2\]"),
        (lambda: create_padding_mask(INTS[None]), DTypeError, "pads must be bool"),
        (lambda: padding(lengths=FLOATS), DTypeError, "lengths must be of an integer dtype.*float32"),
        (lambda: padding(lengths=INTS[None]), ShapeError, r"lengths must be \[B\], got shape=\[1, 2\]"),
        (lambda: padding(lengths=[2, -1]), ArgumentError, "each of lengths must be at least 0, got -1"),
        (lambda: padding(lengths=[2.0]), ArgumentTypeError, "each of lengths must be an integer, got float"),
        (
            lambda: padding(lengths=[2], side="top"),
            ArgumentError,
            "side must be 'right' or 'left', got side='top'",
        ),
        (lambda: padding(pads=BOOLS[None], side="left"), ArgumentError, "got side='left' with a table"),
        (lambda: padding(lengths=[2], side="left"), ArgumentError, "needs the number of keys.*give kv_len="),
        (
            lambda: padding(lengths=[2], kv_len=4),
            ArgumentError,
            "kv_len is for side='left' alone, got kv_len=4",
        ),
        (
            lambda: padding(lengths=[2, 5], side="left", kv_len=4),
            ArgumentError,
            r"lengths must not exceed kv_len=4, got \[2, 5\]",
        ),
        (
            lambda: padding(lengths=[], side="left", kv_len=-1),
            ArgumentError,
            r"padding\(\): kv_len must be at least 0, got -1",
        ),
        (lambda: natten((), 1), ArgumentError, r"canvas must have 1 to 3 axes, got canvas=\(\)"),
        (lambda: natten((2, 2, 2, 2), 1), ArgumentError, "canvas must have 1 to 3 axes"),
        (
            lambda: natten((4, 4), (3,)),
            ArgumentError,
            r"kernel must have a number for each of the 2 axes.*\(3,\)",
        ),
        (
            lambda: natten((4, 4), 1, (1, 1, 1)),
            ArgumentError,
            "dilation must have a number for each of the 2",
        ),
        (lambda: natten(4, 0), ArgumentError, r"natten\(\): kernel must be at least 1, got 0"),
        (lambda: natten(4, 2, 0), ArgumentError, r"natten\(\): dilation must be at least 1, got 0"),
        (lambda: natten(4.0, 2), ArgumentTypeError, r"natten\(\): canvas must be an integer, got float 4.0"),
        (
            lambda: natten((8, 5), 3, (1, 2)),
            ArgumentError,
            r"kernel \* dilation must not exceed.*canvas=\(8, 5\), kernel=\(3, 3\), dilation=\(1, 2\)",
        ),
        (
            lambda: dense([[True]]),
            ArgumentTypeError,
            r"dense\(\): table must be a torch tensor, got list; make",
        ),
        (lambda: document([0, 1]), ArgumentTypeError, r"document\(\): ids must be a torch tensor, got list"),
        (lambda: document(INTS, kv_ids=[0]), ArgumentTypeError, "kv_ids must be a torch tensor, got list"),
        (lambda: padding(pads=[[True]]), ArgumentTypeError, r"padding\(\): pads must be a torch tensor"),
        (lambda: padding(keep=[[1]]), ArgumentTypeError, r"padding\(\): keep must be a torch tensor"),
        (
            lambda: dense(INTS[None]),
            DTypeError,
            r"table must be bool, True = attend, or additive.*dtype=torch.int64; convert 1 = attend with",
        ),
        (lambda: dense(BOOLS), ShapeError, r"table must be \[Q, K\].*got shape=\[2\]"),
    ],
)
def test_an_argument_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
