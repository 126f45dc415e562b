"""A mask is a snapshot: changes are noticed, and `refreshed`, `to`, `==` and pickle keep its meaning."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade import masks
from saccade.block_mask import BlockMask, create_block_mask
from saccade.block_mask.watching import watch
from saccade.errors import ArgumentTypeError, StaleMaskError
from saccade.ir.program import Program
from saccade.signatures import MaskMod


def module_level(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 5)


def by_table(table: Tensor) -> BlockMask:
    """A mask of a user's closure over a table [Q, K]."""

    def shown(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return table[q_idx, kv_idx]

    return create_block_mask(shown, None, None, *table.shape, "cpu", 4)


def table() -> Tensor:
    return torch.arange(64, device="cpu").view(8, 8) % 3 == 0


def test_change_is_noticed_at_every_use() -> None:
    shown = table()
    mask = by_table(shown)
    mask.check_fresh()
    shown[3, 3] ^= True
    for use in (
        mask.check_fresh,
        mask.to_bool,
        mask.visible_pairs,
        mask.to_torch,
        lambda: mask.check_usable(1, 1, 8, 8),
        lambda: pickle.dumps(mask),
    ):
        with pytest.raises(
            StaleMaskError, match=r"'table' \(bool\[8, 8\]\) has changed since; use mask.refreshed\(\)"
        ):
            use()
    fresh = mask.refreshed()
    assert torch.equal(fresh.to_bool()[0, 0], shown)
    fresh.check_fresh()
    assert "partial" in repr(mask)  # looking at blocks needs no fresh tensors


def test_change_through_a_view_or_its_base_is_noticed() -> None:
    whole = torch.stack([table(), ~table()])
    mask = by_table(whole[1])
    whole.zero_()
    with pytest.raises(StaleMaskError, match="refreshed"):
        mask.to_bool()


PADS = torch.zeros(2, 8, dtype=torch.bool)


def hide(pads: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (~pads)[b, kv_idx]


class Layer(torch.nn.Module):
    """A module that holds the padding, beside a weight that no mask reads."""

    def __init__(self, pads: Tensor) -> None:
        super().__init__()
        self.register_buffer("pads", pads)
        self.weight = torch.nn.Parameter(torch.zeros(3, device="cpu"))

    def mask(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return hide(self.pads, b, h, q_idx, kv_idx)

    def outer(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        assert self.outer is not None  # a method may name itself
        return self.mask(b, h, q_idx, kv_idx)

    forward = mask


def holders(pads: Tensor) -> dict[str, MaskMod]:
    """Ways in which a mod may hold a tensor that it reads through another."""

    def closure(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return hide(pads, b, h, q_idx, kv_idx)

    def nested(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        assert nested is not None  # a function may hold itself
        return closure(b, h, q_idx, kv_idx)

    several = [pads]

    def through_a_list(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return hide(several[0], b, h, q_idx, kv_idx)

    def through_a_dictionary(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return hide(by_name["pads"], b, h, q_idx, kv_idx)

    by_name, layer = {"pads": pads}, Layer(pads)

    def through_an_attribute(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return hide(layer.pads, b, h, q_idx, kv_idx)

    return {
        "dictionary": through_a_dictionary,
        "attribute": through_an_attribute,
        "method": layer.mask,
        "method of a method": layer.outer,
        "callable object": layer,
        "closure": closure,
        "closure of a closure": nested,
        "list": through_a_list,
        "partial": functools.partial(hide, pads),
        "library mask": masks.causal & closure,
    }


@pytest.mark.parametrize("holder", holders(PADS))
def test_change_of_what_a_capture_was_made_of_is_noticed(holder: str) -> None:
    pads = torch.zeros(2, 8, dtype=torch.bool, device="cpu")
    mask = create_block_mask(holders(pads)[holder], 2, None, 8, 8, "cpu", 4)
    mask.check_fresh()
    pads[1, 5:] = True
    with pytest.raises(StaleMaskError, match=r"\(bool\[2, 8\]\) has changed since"):
        mask.check_fresh()
    assert mask.refreshed().to_bool().sum() < 128


def test_weights_beside_what_a_method_reads_may_change() -> None:
    layer = Layer(torch.zeros(2, 8, dtype=torch.bool, device="cpu"))
    mask = create_block_mask(layer.mask, 2, None, 8, 8, "cpu", 4)
    with torch.no_grad():
        layer.weight.add_(1)
    mask.check_fresh()


def test_change_of_a_global_is_noticed() -> None:
    def padded(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (~PADS)[b, kv_idx]

    mask = create_block_mask(padded, 2, None, 8, 8, "cpu", 4)
    PADS[0, 0] = True
    with pytest.raises(StaleMaskError, match="'PADS'"):
        mask.check_fresh()


def test_tensors_that_say_nothing_may_change() -> None:
    shown, calls = table(), torch.zeros(1, device="cpu")

    def counted(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        calls.add_(1)
        return shown[q_idx, kv_idx]

    mask = create_block_mask(counted, None, None, 8, 8, "cpu", 4)
    calls.add_(1)
    mask.check_fresh()


def test_new_memory_is_noticed() -> None:
    shown = table()
    mask = by_table(shown)
    shown.data = ~shown
    with pytest.raises(StaleMaskError, match="refreshed"):
        mask.check_fresh()


def test_inference_tensors_have_no_version() -> None:
    with torch.inference_mode():
        shown = table()
        mask = by_table(shown)
        mask.check_fresh()
        assert torch.equal(mask.to_bool()[0, 0], shown)
    assert mask.watched[0].version is None


def test_refreshed_reads_the_function_again() -> None:
    widths = [2]
    mask = create_block_mask(lambda b, h, q, k: q - k < widths[0], None, None, 8, 8, "cpu", 4)
    assert mask.refreshed() == mask
    widths[0] = 5
    assert mask.refreshed() == create_block_mask(lambda b, h, q, k: q - k < 5, None, None, 8, 8, "cpu", 4)


def test_to_moves_captures_and_tensors() -> None:
    shown = table()
    mask = by_table(shown)
    moved = mask.to("meta")
    assert moved.kv_indices.device.type == "meta"
    assert [one.device.type for one in moved.program.captures] == ["meta"]  # type: ignore[attr-defined]
    assert moved.mask_mod is mask.mask_mod
    assert moved != mask
    assert mask.to("cpu") == mask
    shown[0, 0] ^= True
    with pytest.raises(StaleMaskError, match="table"):
        moved.check_fresh()  # it watches the tensor that the function reads
    fresh = moved.refreshed()
    fresh.check_fresh()
    assert fresh.device.type == "meta"
    assert [one.device.type for one in fresh.program.captures] == ["meta"]  # type: ignore[attr-defined]


def test_equality_is_of_meaning() -> None:
    def again(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx >= kv_idx

    sizes = (2, None, 16, 12, "cpu", 4)
    mask = create_block_mask(masks.causal, *sizes)
    same = create_block_mask(again, *sizes)
    assert mask == same
    assert hash(mask) == hash(same)
    assert len({mask, same}) == 1
    assert mask != create_block_mask(masks.sliding_window(100), *sizes)
    assert mask != create_block_mask(masks.causal, 2, None, 16, 12, "cpu", (4, 2))
    assert mask != create_block_mask(masks.causal, 3, None, 16, 12, "cpu", 4)
    assert mask != create_block_mask(masks.causal, *sizes, separate_full_blocks=False)
    assert mask != BlockMask.from_torch(mask.to_torch())
    assert mask != 3
    assert by_table(table()) == by_table(table())
    assert by_table(table()) != by_table(table() & torch.ones(8, 8, dtype=torch.bool).tril())
    assert create_block_mask(masks.sliding_window(3), *sizes) != create_block_mask(
        masks.sliding_window(4), *sizes
    )


def test_captures_that_differ_where_blocks_do_not() -> None:
    first, second = table(), table()
    second[0, :4] = ~second[0, :4]
    assert by_table(first).runs == by_table(second).runs
    assert by_table(first) != by_table(second)


def test_programs_over_numpy_arrays() -> None:
    structure = by_table(table()).program.structure

    def over(array: np.ndarray) -> BlockMask:
        return create_block_mask(Program(structure, (array,), (), ("array",)), None, None, 8, 8, "cpu", 4)

    shown = table().numpy()
    assert over(shown) == over(shown.copy())
    assert over(shown) != over(~shown)
    assert torch.equal(over(shown).to_bool(), by_table(table()).to_bool())
    assert over(shown).watched == ()  # numpy keeps no versions


def test_tensor_without_memory_is_watched_by_version() -> None:
    sparse = torch.eye(3, device="cpu").to_sparse()
    program = Program(by_table(table()).program.structure, (sparse,), (), ("sparse",))
    (watched,) = watch(program, program)
    assert watched.address is None
    assert not watched.has_changed
    sparse.zero_()
    assert watched.has_changed


def test_truth_value_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"has no truth value.* test for absence with `is None`"):
        bool(by_table(table()))


def test_frozen_and_copied_as_itself() -> None:
    mask = by_table(table())
    with pytest.raises(dataclasses.FrozenInstanceError, match="mask_mod"):
        mask.mask_mod = masks.causal  # type: ignore[misc]
    assert copy.copy(mask) is mask
    assert copy.deepcopy([mask])[0] is mask


@pytest.mark.parametrize(
    "mask",
    [
        create_block_mask(masks.sliding_window(5) & masks.padding(lengths=[3, 9]), 2, 3, 12, 10, "cpu", 4),
        create_block_mask(module_level, None, None, 12, 10, "cpu", 4),
        create_block_mask(module_level, None, None, 12, 10, "cpu", 4).crop(q=(3, 9)),
        BlockMask.from_kv_blocks(torch.tensor([1]), torch.tensor([[0]]), BLOCK_SIZE=4, mask_mod=masks.causal),
    ],
    ids=["library mask", "module-level function", "part", "given blocks"],
)
def test_pickle_keeps_everything(mask: BlockMask) -> None:
    again = pickle.loads(pickle.dumps(mask))
    assert again == mask
    assert again.to_torch().shape == mask.shape
    assert type(again.mask_mod) is type(mask.mask_mod)
    again.check_fresh()


def test_pickle_of_a_closure_keeps_its_program() -> None:
    mask = by_table(table())
    again = pickle.loads(pickle.dumps(mask))
    assert again == mask
    assert again.mask_mod is again.program
    assert again.crop(q=(1, 5)) == mask.crop(q=(1, 5))
    assert again.refreshed() == mask
    assert pickle.loads(pickle.dumps(again)) == mask
    assert "a program" in repr(again)
    again.program.captures[0].zero_()  # type: ignore[attr-defined]
    with pytest.raises(StaleMaskError, match="table"):
        again.check_fresh()


def test_pickled_library_mask_watches_the_tensor_of_its_function() -> None:
    lengths = torch.tensor([3, 9], device="cpu")
    again = pickle.loads(
        pickle.dumps(create_block_mask(masks.padding(lengths=lengths), 2, None, 12, 10, "cpu", 4))
    )
    assert again.watched[0].tensor is again.program.captures[0]
    assert again.refreshed().watched[0].tensor is again.watched[0].tensor


def test_another_process_reads_the_mask(tmp_path: Path) -> None:
    mask = create_block_mask(masks.sliding_window(5), 2, None, 12, 10, "cpu", 4).crop(kv=(1, 9))
    (tmp_path / "mask.pickle").write_bytes(pickle.dumps((mask, by_table(table()))))
    script = (
        "import pickle, sys; library, closure = pickle.load(open(sys.argv[1], 'rb')); "
        "print(library.visible_pairs(), closure.visible_pairs(), library)"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {source!r}); {script}",
            str(tmp_path / "mask.pickle"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{mask.visible_pairs()} {by_table(table()).visible_pairs()} {mask}\n"
