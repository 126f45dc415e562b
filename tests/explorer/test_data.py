"""What the page knows: its data, their sizes, and what it refuses."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from saccade import masks as m
from saccade import scores as sc
from saccade.block_mask import BlockMask, create_block_mask
from saccade.errors import ArgumentError, ArgumentTypeError, ModError, ShapeError, StaleMaskError
from saccade.explorer import block_data, captured_data
from saccade.explorer.block_data import blocks_data
from saccade.explorer.captured_data import CapturedData, encoded
from saccade.explorer.data import page_data
from saccade.explorer.exactness import evaluated, is_exact
from saccade.explorer.program_data import ProgramData, node_text
from saccade.ir.program import Program
from saccade.ir.text import parse_structure
from saccade.tracing import trace


def mask_of(mod: object, q_len: int = 8, kv_len: int = 8, block: int = 4, **sizes: int) -> BlockMask:
    batch, heads = sizes.get("batch"), sizes.get("heads")
    return create_block_mask(mod, batch, heads, q_len, kv_len, device="cpu", BLOCK_SIZE=block)  # type: ignore[arg-type]


def decoded(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=np.dtype(dtype).newbyteorder("<"))


def program_of(text: str, *captures: np.ndarray) -> Program:
    return Program(parse_structure(text), captures)


class TestThePage:
    def test_it_is_json_and_says_its_sizes(self) -> None:
        mask = mask_of(m.causal & m.sliding_window(3), 6, 8, batch=2, heads=3)
        data: dict[str, Any] = page_data(mask, score_mod=sc.alibi(n_heads=3))
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert [data[name] for name in ("batch", "heads", "q_len", "kv_len")] == [2, 3, 6, 8]
        assert data["title"] == "causal & sliding_window(3)"
        assert data["programs"][data["mask"]]["kind"] == "mask"
        assert data["programs"][data["score"]]["kind"] == "score"
        assert page_data(mask, title="mine")["title"] == "mine"
        assert page_data(mask)["score"] is None

    def test_a_further_mask_narrows_the_first(self) -> None:
        data: dict[str, Any] = page_data(mask_of(m.causal), m.local(1, 0))
        expected = mask_of(m.causal & m.local(1, 0))
        assert data["title"] == "causal & local(left=1, right=0)"
        assert data["blocks"] == blocks_data(expected)
        assert data["counts"] == page_data(expected)["counts"]
        assert [term["label"] for term in data["terms"]["terms"]] == ["causal", "local(left=1, right=0)"]

    def test_given_blocks_stay_the_truth(self) -> None:
        counts, columns = torch.tensor([[[1, 1]]]), torch.tensor([[[[0, 1], [1, 0]]]])
        given = BlockMask.from_kv_blocks(counts, columns, BLOCK_SIZE=4, mask_mod=m.causal)
        data: dict[str, Any] = page_data(given)
        assert "given_blocks" in data["programs"][data["mask"]]["names"]
        assert data["blocks"] == blocks_data(given)

    def test_labels(self) -> None:
        words = [f"word{i}" for i in range(8)]
        data = page_data(mask_of(m.causal), tokens=words)
        assert data["tokens"] == data["kv_tokens"] == words
        data = page_data(mask_of(m.causal, 8, 6), tokens=words)
        assert (data["tokens"], data["kv_tokens"]) == (words, None)
        data = page_data(mask_of(m.causal, 8, 6), kv_tokens=words[:6])
        assert (data["tokens"], data["kv_tokens"]) == (None, words[:6])

    def test_what_has_no_page(self) -> None:
        with pytest.raises(
            ArgumentTypeError, match=r"mask_html\(\) expects a BlockMask, got \w+; make one with"
        ):
            page_data(m.causal)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=r"without pairs has no page, got shape=\(1, 1, 0, 8\)"):
            page_data(mask_of(m.causal, 0, 8))
        with pytest.raises(ModError, match=r"score_mod to be a function of \(score.*got the mask_mod causal"):
            page_data(mask_of(m.causal), score_mod=m.causal)  # type: ignore[arg-type]
        with pytest.raises(ModError, match=r"mask_html\(\) expects a mask_mod"):
            page_data(mask_of(m.causal), sc.checkerboard)  # type: ignore[arg-type]
        with pytest.raises(ShapeError, match=r"tokens must hold one text a query, got 2 for 8; cut the list"):
            page_data(mask_of(m.causal), tokens=["a", "b"])
        with pytest.raises(ShapeError, match=r"kv_tokens must hold one text a key, got 9 for 8"):
            page_data(mask_of(m.causal), kv_tokens=list("abcdefghi"))
        with pytest.raises(
            ArgumentTypeError, match=r"title must be a text, got title=5; write str\(\.\.\.\) of it"
        ):
            page_data(mask_of(m.causal), title=5)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("labels", "written"),
        [
            (list(range(8)), r"\[0, 1"),
            ([*"abcdefg", 7], r"\['a', 'b'"),
            ((str(i) for i in range(8)), "<generator ob"),
            (dict.fromkeys("abcdefgh"), r"\{'a': None"),
            (set("abcdefgh"), r"\{'a', 'b'"),
            (5, "5;"),
            (b"abcdefgh", "b'abcdefgh'"),
            ("abcdefgh", "'abcdefgh'; write list"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_labels_that_are_no_list_of_texts(self, labels: Any, written: str) -> None:
        with pytest.raises(
            ArgumentTypeError, match=f"tokens must be a list of texts, one a query, got tokens={written}"
        ):
            page_data(mask_of(m.causal), tokens=labels)
        with pytest.raises(ArgumentTypeError, match=r"kv_tokens must be .* one a key, got kv_tokens='abcdef"):
            page_data(mask_of(m.causal), kv_tokens="abcdefgh")

    def test_a_changed_tensor_is_noticed(self) -> None:
        ids = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
        mask = mask_of(m.document(ids))
        ids[0] = 5
        with pytest.raises(StaleMaskError, match="refreshed"):
            page_data(mask)


class TestCaptures:
    @pytest.mark.parametrize(
        ("dtype", "written"),
        [
            (torch.bool, "bool"),
            (torch.uint8, "uint8"),
            (torch.int16, "int16"),
            (torch.int64, "int64"),
            (torch.float16, "float32"),
            (torch.bfloat16, "float32"),
            (torch.float32, "float32"),
            (torch.float64, "float64"),
        ],
    )
    def test_every_type_is_written_as_it_is_or_wider(self, dtype: torch.dtype, written: str) -> None:
        table = torch.tensor([[0, 1, 0], [1, 1, 0]], dtype=dtype)
        captured = CapturedData()
        slots, _ = captured.add(trace(lambda b, h, q_idx, kv_idx: table[q_idx, kv_idx] == 1))
        (entry,) = captured.entries
        assert slots == [0]
        assert (entry["dtype"], entry["shape"]) == (written, [2, 3])
        assert decoded(str(entry["data"]), written).tolist() == table.flatten().to(torch.float64).tolist()

    def test_bytes_are_little_endian_and_in_order(self) -> None:
        assert base64.b64decode(encoded(np.array([1, 256], dtype=">i4"))) == b"\1\0\0\0\0\1\0\0"
        transposed = np.arange(6, dtype=np.int8).reshape(2, 3).T
        assert base64.b64decode(encoded(transposed)) == bytes([0, 3, 1, 4, 2, 5])

    def test_a_shared_tensor_is_written_once(self) -> None:
        ids = torch.arange(8) // 3
        documents = m.document(ids)
        data: dict[str, Any] = page_data(mask_of((m.causal & documents) | (m.local(1, 1) & documents)))
        (capture,) = data["captures"]
        assert ["document_ids"] in [program["names"] for program in data["programs"]]
        assert decoded(capture["data"], "int64").tolist() == ids.tolist()

    def test_equal_tensors_are_written_once_and_keep_their_names(self) -> None:
        starts, lengths = torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int64)

        def mod(b, h, q_idx, kv_idx):
            return starts[q_idx] + lengths[kv_idx] < kv_idx

        data: dict[str, Any] = page_data(mask_of(mod))
        assert len(data["captures"]) == 1
        program = data["programs"][data["mask"]]
        assert (program["captures"], program["names"]) == ([0, 0], ["starts", "lengths"])

    def test_names_are_those_of_the_text(self) -> None:
        first, second = torch.arange(8) // 3, torch.arange(8) // 5
        data: dict[str, Any] = page_data(mask_of(m.document(first) | m.document(second)))
        assert len(data["captures"]) == 2
        for program in data["programs"]:
            texts = " ".join(node["text"] for node in program["nodes"])
            assert all(f"{name}[q_idx]" in texts for name in program["names"])
        joint = data["programs"][data["mask"]]
        assert len(set(joint["names"])) == 2

    def test_too_much_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(captured_data, "MOST_BYTES", 1 << 20)
        small, bias = torch.zeros(8), torch.zeros(8, 1 << 16)

        def score(score, b, h, q_idx, kv_idx):
            return score + small[q_idx] + bias[q_idx, kv_idx]

        message = r"read, 1 MB at most; got 2\.0 MB with bias, float32\[8, 65536\], which takes 2\.0 MB; make"
        with pytest.raises(ArgumentError, match=message):
            page_data(mask_of(m.causal), score_mod=score)


class TestPrograms:
    def test_nodes_come_after_their_arguments(self) -> None:
        table = torch.arange(8)

        def mod(b, h, q_idx, kv_idx):
            return (table[q_idx] + 2**60 < 5) | (kv_idx.float() * 0.5 < math.inf)

        programs = ProgramData((1, 1, 8, 8))
        assert programs.add(program := trace(mod)) == 0
        assert programs.add(program) == 0
        (entry,) = programs.entries
        nodes: Any = entry["nodes"]
        assert all(arg < place for place, node in enumerate(nodes) for arg in node["args"])
        assert entry["root"] == len(nodes) - 1
        by_op = {node["op"]: node for node in nodes}
        assert by_op["cast"]["attr"] == "float32"
        assert by_op["load"]["attr"] == 0
        assert [node["attr"] for node in nodes if node["op"] == "var"] == ["q_idx", "kv_idx"]
        assert str(2**60) in {node["attr"] for node in nodes if node["op"] == "const"} | set(entry["numbers"])  # type: ignore[call-overload]
        assert json.dumps(entry, allow_nan=False)

    def test_special_numbers_are_texts(self) -> None:
        text = "score() -> f32\nmaximum(minimum(score, inf), -inf) + nan * sum(axis0 < 3, f32(axis0))"
        programs = ProgramData((1, 1, 2, 2))
        programs.add(program_of(text))
        nodes: Any = programs.entries[0]["nodes"]
        assert {node["attr"] for node in nodes if node["op"] == "const"} >= {"inf", "nan"}
        assert [node["attr"] for node in nodes if node["op"] == "sum"] == [[0, 3]]

    def test_a_derivative_that_users_gave_does_not_travel(self) -> None:
        program = program_of("score() -> f32\ncustom(tanh(score), score, cotangent * 2.0)")
        programs = ProgramData((1, 1, 2, 2))
        programs.add(program)
        nodes: Any = programs.entries[0]["nodes"]
        assert [node["op"] for node in nodes] == ["var", "tanh", "custom"]
        assert nodes[2]["args"] == [1]

    def test_texts_hold_numbers_and_stay_short(self) -> None:
        near = trace(lambda b, h, q_idx, kv_idx: (q_idx - kv_idx < 3) & (kv_idx < 7))
        assert node_text(near.root.args[0], near) == "q_idx - kv_idx < 3"
        moved = trace(m.shift(m.causal, q=5))
        assert node_text(moved.root, moved) == "kv_idx <= q_idx + 5"
        moved = trace(m.shift(m.document(torch.arange(9)), q=1))
        assert node_text(moved.root, moved) == "document_ids[q_idx + 1] == document_ids[kv_idx]"

        def long(b, h, q_idx, kv_idx):
            total = q_idx
            for step in range(100):
                total = total * (kv_idx + step)
            return total < 5

        program = trace(long)
        assert node_text(program.root, program) == "lt(…)"


class TestExactness:
    @pytest.mark.parametrize(
        ("text", "captures", "expected"),
        [
            ("mask() -> bool\nq_idx * kv_idx < 3", (), True),
            ("mask() -> bool\nq_idx * kv_idx * kv_idx * kv_idx * kv_idx * kv_idx < 3", (), False),
            ("mask(c0: i64[1]) -> bool\nc0[q_idx] < 3", (np.array([0, 2**53 - 1]),), True),
            ("mask(c0: i64[1]) -> bool\nc0[q_idx] < 3", (np.array([0, 2**53]),), False),
            ("mask(c0: i64[1]) -> bool\nc0[q_idx] < 3", (np.zeros(0, np.int64),), True),
            ("mask(c0: f32[1]) -> bool\ni64(c0[q_idx]) < 3", (np.array([0, 7], np.float32),), True),
            ("mask(c0: f32[1]) -> bool\ni64(c0[q_idx]) < 3", (np.array([0, np.nan], np.float32),), False),
            ("mask(c0: f32[1]) -> bool\ni64(c0[q_idx]) < 3", (np.array([np.nan], np.float32),), False),
            ("mask(c0: bool[1]) -> bool\nwhere(c0[q_idx], b, h) < 3", (np.array([True, False]),), True),
            ("mask() -> bool\nq_idx << kv_idx < 3", (), False),
            ("mask() -> bool\nsum(axis0 < 9, axis0 * q_idx) < 3", (), True),
            ("mask() -> bool\nsum(axis0 < 9, axis0 << 51) < 3", (), False),
        ],
    )
    def test_what_is_proven(self, text: str, captures: tuple[np.ndarray, ...], expected: bool) -> None:
        nodes = evaluated(parse_structure(text).root)
        assert is_exact(nodes, captures, (), (2, 3, 4096, 4096)) is expected

    def test_numbers_count(self) -> None:
        nodes = evaluated(parse_structure("mask(n0: i64) -> bool\nq_idx + n0 < 3").root)
        assert is_exact(nodes, (), (5,), (1, 1, 8, 8))
        assert not is_exact(nodes, (), (2**53 - 3,), (1, 1, 8, 8))


class TestBlocks:
    def test_runs_in_csr_form(self) -> None:
        mask = mask_of(lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (kv_idx >= 4 * h), 12, 16, heads=2)
        data: dict[str, Any] = blocks_data(mask)
        assert [data[name] for name in ("q_block", "kv_block", "rows", "columns")] == [4, 4, 3, 4]
        assert data["shape"] == [1, 2]
        for h, grid in enumerate(data["grids"]):
            indptr = decoded(grid["indptr"], "int32")
            runs = list(
                zip(
                    decoded(grid["starts"], "int32"),
                    decoded(grid["stops"], "int32"),
                    decoded(grid["kinds"], "uint8"),
                    strict=True,
                )
            )
            found = [runs[indptr[row] : indptr[row + 1]] for row in range(3)]
            assert found == [mask.runs.row(0, h, row) for row in range(3)]

    def test_too_many_runs_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(block_data, "MOST_BYTES", 1 << 10)
        mask = mask_of(lambda b, h, q_idx, kv_idx: (q_idx + kv_idx) % 2 == 0, 64, 64, block=1)
        message = (
            r"got 2,048 runs of blocks of 1×1, which take 0\.0 MB; make the mask with a larger BLOCK_SIZE"
        )
        with pytest.raises(ArgumentError, match=message):
            blocks_data(mask)

    def test_blocks_and_pairs_are_counted_over_all_heads(self) -> None:
        mask = mask_of(
            lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (kv_idx >= 4 * h), 12, 16, batch=3, heads=2
        )
        data: dict[str, Any] = page_data(mask)
        kinds = mask.runs.to_dense()
        assert data["counts"] == [3 * int((kinds == kind).sum()) for kind in (0, 1, 2)]
        assert data["density"] == pytest.approx(float(mask.to_bool().double().mean()))

    def test_a_density_that_would_take_long_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mask = mask_of(m.causal)  # two partial blocks of 16 pairs
        monkeypatch.setattr(block_data, "MOST_COUNTED", 32)
        assert page_data(mask)["density"] == 36 / 64
        monkeypatch.setattr(block_data, "MOST_COUNTED", 31)
        assert page_data(mask)["density"] is None
