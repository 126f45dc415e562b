"""A mask is a value: it compares, hashes, pickles, prints and combines."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch

from catalogue import Sizes
from catalogue.library_masks import LIBRARY_MASKS
from saccade import errors
from saccade.masks import (
    Mask,
    and_masks,
    block_diffusion,
    causal,
    chunked,
    create_padding_mask,
    dense,
    dilated_window,
    document,
    global_tokens,
    image_cross_attention,
    jagged,
    local,
    local_2d,
    natten,
    noop_mask,
    not_mask,
    or_masks,
    padding,
    prefix_lm,
    random_blocks,
    shared_prefix,
    shift,
    sliding_tile,
    sliding_window,
    streaming,
    strided,
    tree,
    xor_masks,
)


def even_keys(b, h, q_idx, kv_idx):
    return kv_idx % 2 == 0


FACTORIES = [
    *(
        block_diffusion,
        chunked,
        dense,
        dilated_window,
        document,
        global_tokens,
        image_cross_attention,
        jagged,
    ),
    *(local, local_2d, natten, padding, prefix_lm, random_blocks, shared_prefix, shift, sliding_tile),
    *(sliding_window, streaming, strided, tree),
]


@pytest.mark.parametrize("case", LIBRARY_MASKS, ids=str)
def test_masks_made_alike_are_equal_and_survive_a_pickle(case):
    mask, again = case.build(Sizes()).mask, case.build(Sizes()).mask
    assert isinstance(mask, Mask)
    for other in (again, pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask)):
        assert other == mask
        assert hash(other) == hash(mask)
    assert repr(pickle.loads(pickle.dumps(mask))) == repr(mask)


def test_masks_of_different_meaning_differ():
    # One of each kind: the catalogue has the same mask under several names.
    ids = torch.tensor([0, 0, 1])
    masks = [
        *(causal, noop_mask, local(1, 2), local(2, 1), sliding_window(2), sliding_window(3), prefix_lm(2)),
        *(prefix_lm(ids[0]), prefix_lm(ids), document(ids), document(ids + 1), document(ids.int())),
        *(
            document(lengths=[2, 1]),
            document(ids, kv_ids=ids),
            padding(lengths=[2, 1]),
            padding(keep=ids[None]),
        ),
        *(padding(keep=ids[None], queries=True), natten(6, 3), natten(6, 3, 2), natten((2, 3), 1)),
        *(dense(ids[None] > 0), dense(ids[None] < 1), dense(ids[None].float()), dense(ids[None].half())),
        *(dense(ids[None].float().log()), shift(causal, q=1), shift(causal, kv=1), ~causal),
        *(
            chunked(2),
            strided(2),
            streaming(2, 1),
            streaming(1, 2),
            dilated_window(1, 0, 2),
            global_tokens(2),
        ),
        *(global_tokens(ids > 0), random_blocks(6, 2, 1), random_blocks(6, 2, 1, seed=1)),
        *(block_diffusion(6, 2), tree([-1, 0]), tree([-1, 0], context=1), tree(ids - 1)),
        *(shared_prefix(2, [1]), shared_prefix(2, ids), local_2d((2, 3), 1), local_2d((3, 2), 1)),
        *(jagged(causal, [0, 2]), jagged(noop_mask, [0, 2]), jagged(causal, [0, 2], [0, 3])),
        *(sliding_tile(6, 2, 1), sliding_tile(6, 3, 1), natten((4, 4), 3, order="morton")),
        *(image_cross_attention([[0, 2]], 1), image_cross_attention([[0, 2]], [1])),
        *(
            causal & even_keys,
            causal | even_keys,
            causal ^ even_keys,
            even_keys & causal,
            and_masks(),
            or_masks(),
        ),
    ]
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            assert (one == other) == (i == j), (one, other)
    assert causal != even_keys
    assert causal != "causal"


def test_a_hash_does_not_follow_a_tensor_that_changes():
    ids = torch.tensor([0, 0, 1])
    mask = document(ids)
    before = hash(mask)
    ids += 5
    assert hash(mask) == before
    assert mask == document(torch.tensor([5, 5, 6]))


def test_numbers_given_as_a_list_are_copied():
    lengths = [2, 1]
    mask = document(lengths=lengths)
    lengths[0] = 7
    assert mask == document(lengths=[2, 1])
    assert hash(padding(lengths=[1, 2])) == hash(padding(lengths=(1, 2)))
    parents, pairs, lengths = [-1, 0], [[0, 2], [1, 3]], [0, 1]
    masks = [
        *(tree(parents), shared_prefix(1, parents[1:]), jagged(causal, lengths)),
        image_cross_attention(pairs, lengths),
    ]
    before = [hash(mask) for mask in masks]
    parents[1], pairs[1][0], lengths[1] = -1, 0, 4
    assert [hash(mask) for mask in masks] == before
    assert masks[-1] == image_cross_attention(((0, 2), (1, 3)), (0, 1))


@pytest.mark.parametrize(
    ("mask", "text"),
    [
        (causal, "causal"),
        (noop_mask, "noop_mask"),
        (sliding_window(256), "sliding_window(256)"),
        (local(left=2, right=0), "local(left=2, right=0)"),
        (prefix_lm(torch.tensor([1, 2])), "prefix_lm(int64[2])"),
        (document(lengths=[3, 4]), "document(lengths=[3, 4])"),
        (document(lengths=range(100)), "document(lengths=[0, 1, 2, 3, 4, 5, 6, 7, ... 100 in all])"),
        (document(torch.zeros(2, 9, dtype=torch.int32)), "document(ids=int32[2, 9])"),
        (padding(lengths=[3, 4], queries=True), "padding(lengths=[3, 4], queries=True)"),
        (create_padding_mask(torch.zeros(2, 9, dtype=torch.bool)), "padding(pads=bool[2, 9], queries=True)"),
        (natten((8, 8), 3), "natten(canvas=[8, 8], kernel=[3, 3], dilation=[1, 1])"),
        (dense(torch.zeros(4, 4, dtype=torch.bool)), "dense(bool[4, 4])"),
        (dense(torch.zeros(2, 1, 4, 4).bfloat16()), "dense(bfloat16[2, 1, 4, 4])"),
        (shift(causal, q=4), "shift(causal, q=4)"),
        (shift(even_keys, kv=torch.tensor(4)), "shift(even_keys, kv=int64[])"),
        (chunked(8), "chunked(8)"),
        (streaming(8, 4), "streaming(window=8, first=4)"),
        (dilated_window(3, 0, 2), "dilated_window(left=3, right=0, dilation=2)"),
        (random_blocks(8, 2, 1), "random_blocks(length=8, block=2, number=1)"),
        (block_diffusion(8, 2), "block_diffusion(length=8, block=2)"),
        (tree([-1, 0]), "tree([-1, 0])"),
        (shared_prefix(2, [1, 3]), "shared_prefix(prefix=2, lengths=[1, 3])"),
        (local_2d((8, 9), 2), "local_2d(canvas=[8, 9], window=[2, 2])"),
        (sliding_tile(8, 4, 1), "sliding_tile(canvas=[8], tile=[4], window=[1])"),
        (jagged(even_keys, [0, 2]), "jagged(even_keys, offsets=[0, 2])"),
        (
            image_cross_attention([[0, 7], [7, 12]], 3),
            "image_cross_attention(intervals=[(0, 7), (7, 12)], image_lengths=3)",
        ),
        (causal & sliding_window(4), "causal & sliding_window(4)"),
        (causal & local(1, 1) & even_keys, "causal & local(left=1, right=1) & even_keys"),
        (even_keys & causal, "even_keys & causal"),
        ((causal | even_keys) & noop_mask, "(causal | even_keys) & noop_mask"),
        (causal | even_keys & noop_mask, "causal | (even_keys & noop_mask)"),
        (causal ^ even_keys, "causal ^ even_keys"),
        (~causal, "~causal"),
        (~(causal | even_keys), "~(causal | even_keys)"),
        (not_mask(even_keys), "~even_keys"),
        (and_masks(even_keys), "and_masks(even_keys)"),
        (or_masks(), "or_masks()"),
        (xor_masks(), "xor_masks()"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mask_prints_as_what_makes_it(mask, text):
    assert repr(mask) == text


@pytest.mark.parametrize("case", LIBRARY_MASKS, ids=str)
def test_a_mask_cannot_be_changed(case):
    mask = case.build(Sizes()).mask
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign"):
        mask.anything = 1


def test_operators_are_the_combinators_on_either_side():
    for left, right in ((causal, local(1, 1)), (causal, even_keys), (even_keys, causal)):
        assert left & right == and_masks(left, right)
        assert left | right == or_masks(left, right)
        assert left ^ right == xor_masks(left, right)
    assert ~causal == not_mask(causal)
    assert (
        causal & (even_keys & noop_mask)
        == and_masks(causal, even_keys, noop_mask)
        == causal & even_keys & noop_mask
    )


def test_a_mask_has_no_truth_value():
    with pytest.raises(
        errors.ArgumentTypeError, match=r"no truth value, got bool\(causal\); combine masks with &"
    ):
        _ = causal and sliding_window(4)


def test_torchs_compiler_may_ask_whether_a_mod_is_there() -> None:
    compiler: dict[str, object] = {"__name__": "torch._dynamo.symbolic_convert", "fn": causal}
    exec("called = bool(fn and callable(fn))", compiler)
    assert compiler["called"] is True


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_factory_passed_uncalled_shows_the_call(factory):
    message = rf"{factory.__name__} is a factory, not yet a mod; call it first: {factory.__name__}\("
    combinations = [
        lambda: and_masks(causal, factory),
        lambda: or_masks(factory, causal),
        lambda: xor_masks(factory),
        lambda: not_mask(factory),
        lambda: shift(factory, q=1),
        lambda: causal & factory,
        lambda: factory & causal,
        lambda: causal | factory,
        lambda: factory | causal,
        lambda: causal ^ factory,
    ]
    for combine in combinations:
        with pytest.raises(errors.ModError, match=message):
            combine()


def test_any_class_is_a_factory():
    with pytest.raises(
        errors.ModError, match=r"and_masks\(\): dict is a factory.*call it first: dict\(\.\.\.\)"
    ):
        and_masks(causal, dict)


@pytest.mark.parametrize("combine", [and_masks, or_masks, xor_masks])
def test_what_is_no_mask_is_refused_as_torch_does(combine):
    message = rf"{combine.__name__}\(\) expects mods, functions of index values.*got the tensor int64\[\]"
    with pytest.raises(errors.ModError, match=message) as refusal:
        combine(causal, torch.tensor(1))
    assert isinstance(refusal.value, RuntimeError)  # torch's and_masks and or_masks raise that
    assert isinstance(refusal.value, TypeError)


def test_a_mod_that_returns_pythons_bool_combines():
    def yes(b, h, q_idx, kv_idx):
        return True

    index = torch.arange(3)
    assert (yes & causal)(index, index, index, index).all()
    assert not (~(yes | causal))(index, index, index, index).any()
    assert not not_mask(yes)(index, index, index, index).any()
    assert not (yes ^ causal)(index, index, index, index).any()
