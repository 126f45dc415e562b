"""How the GPU engine computes a problem: kernels, tiles, splits, precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saccade.backends.mods import mods_of
from saccade.backends.triton.arguments import Layout
from saccade.backends.triton.options import Options
from saccade.backends.triton.specialise import (
    Circumstances,
    analysis_pays,
    choose,
    describes,
    hinted_tile,
    key_of,
    precision_of,
    question_of,
    specify,
    specify_gradient,
)
from saccade.codegen.program.which import Which
from saccade.codegen.triton.capture_ways import CaptureWay
from saccade.codegen.triton.kernel import write
from saccade.codegen.triton.spec import KernelKind, Tile, Walk
from saccade.ir.dtype import DType
from saccade.masks import causal, sliding_window
from saccade.problem import AttentionProblem, BlockFacts, ModFacts, Outputs, Wanted
from saccade.runtime.triton import INTERPRETER, Device, Target
from saccade.schedule import Schedule
from saccade.tracing import trace

PLAIN = AttentionProblem("cuda", DType.BFLOAT16, 2, 2, 8, 2, 4096, 4096, 64, 64, scale=0.125)
HOPPER = Device(Target.parse("cuda:90"), 132, 227 << 10)
AMPERE = Device(Target.parse("cuda:80"), 108, 163 << 10)
NOWHERE = Device(INTERPRETER, 1, None)
CAUSAL = ModFacts(trace(causal).structure)
GIVEN = Circumstances((), Walk.FULL, True, False, True, "ieee")


def decoding(**change: object) -> AttentionProblem:
    return replace(PLAIN, **{"q_len": 1, "kv_len": 32768, **change})


class TestKernel:
    def test_many_queries_fill_tiles_of_their_head(self) -> None:
        chosen = choose(PLAIN, Schedule(), HOPPER)
        assert (chosen.kind, chosen.packed, chosen.splits, chosen.keeps_rows) == (
            KernelKind.FORWARD, False, 1, False,
        )  # fmt: skip

    @pytest.mark.parametrize(("queries", "group", "rows"), [(1, 4, 16), (5, 4, 32), (16, 4, 64), (1, 3, 16)])
    def test_few_queries_are_packed_with_their_group(self, queries: int, group: int, rows: int) -> None:
        chosen = choose(decoding(q_len=queries, q_heads=2 * group), Schedule(), HOPPER)
        assert chosen.packed
        assert chosen.keeps_rows
        assert chosen.tile.rows == rows

    def test_every_head_of_its_own_is_not_packed(self) -> None:
        chosen = choose(decoding(kv_heads=8), Schedule(), HOPPER)
        assert not chosen.packed
        assert chosen.tile.rows == 16

    def test_a_group_that_no_tile_holds_is_not_packed(self) -> None:
        assert not choose(decoding(q_heads=256), Schedule(), HOPPER).packed
        assert not choose(decoding(q_heads=64), Schedule(q_tile=16), HOPPER).packed

    @pytest.mark.parametrize(
        ("analysed", "heads", "packed"), [(True, 8, True), (False, 8, False), (False, 1, True)]
    )
    def test_given_blocks_that_differ_among_heads(self, analysed: bool, heads: int, packed: bool) -> None:
        blocks = BlockFacts(CAUSAL, 1, heads, 128, 128, analysed)
        assert choose(decoding(block_mask=blocks), Schedule(), HOPPER).packed is packed


class TestSplits:
    def test_fill_the_device(self) -> None:
        chosen = choose(decoding(), Schedule(), HOPPER)
        assert chosen.kind is KernelKind.SPLIT
        programs = 2 * 2 * chosen.splits
        assert 132 <= programs <= 2 * 132

    def test_are_not_made_where_there_is_work_enough(self) -> None:
        assert choose(decoding(batch=128, kv_batch=128), Schedule(), HOPPER).splits == 1

    def test_are_for_few_queries(self) -> None:
        assert choose(replace(PLAIN, batch=1, q_len=512), Schedule(), HOPPER).splits == 1

    def test_have_keys_enough(self) -> None:
        assert choose(decoding(kv_len=700), Schedule(), HOPPER).splits == 2
        assert choose(decoding(kv_len=500), Schedule(), HOPPER).kind is KernelKind.FORWARD

    def test_a_call_may_name_them(self) -> None:
        named = Schedule(kv_tile=64, engine_options=(("SPLIT_KV", 7),))
        assert choose(decoding(), named, NOWHERE).splits == 7
        # There is no split without a tile of keys.
        assert choose(decoding(kv_len=130), named, NOWHERE).splits == 3


class TestHints:
    @pytest.mark.parametrize(("asked", "found"), [(1, 16), (16, 16), (17, 32), (100, 128), (5000, 256)])
    def test_sizes_are_powers_of_two(self, asked: int, found: int) -> None:
        tile = hinted_tile(Schedule(q_tile=asked, kv_tile=asked), Tile(64, 64))
        assert tile == Tile(found, found)

    def test_warps_and_stages(self) -> None:
        assert hinted_tile(Schedule(num_warps=3, num_stages=5), Tile(64, 64)) == Tile(64, 64, 4, 5)
        assert hinted_tile(Schedule(num_warps=64), Tile(64, 64)).warps == 16

    def test_descriptors(self) -> None:
        use, leave = (Schedule(engine_options=(("USE_TMA", one),)) for one in (True, False))
        assert choose(PLAIN, use, HOPPER).descriptors
        assert not choose(PLAIN, leave, HOPPER).descriptors
        assert not choose(PLAIN, use, AMPERE).descriptors
        assert choose(PLAIN, use, NOWHERE).descriptors
        assert not choose(PLAIN, Schedule(), NOWHERE).descriptors

    def test_full_float32_has_no_descriptors(self) -> None:
        single, use = replace(PLAIN, dtype=DType.FLOAT32), Schedule(engine_options=(("USE_TMA", True),))
        assert torch.get_float32_matmul_precision() == "highest"
        assert not choose(single, use, HOPPER).descriptors
        assert [describes(DType.FLOAT32, each) for each in ("ieee", "tf32")] == [False, True]
        assert describes(DType.BFLOAT16, "ieee")

    def test_options_by_name(self) -> None:
        given = (("USE_TMA", False), ("bwd_max_autotune", True), ("fwd_SPLIT_KV", 3))
        hints = Schedule(engine_options=given)
        assert Options.of(hints, "fwd_") == Options(False, 3, False)
        assert Options.of(hints, "bwd_") == Options(False, None, True)


class TestPrecision:
    @pytest.fixture(autouse=True)
    def _as_before(self):
        before = torch.get_float32_matmul_precision()
        yield
        torch.set_float32_matmul_precision(before)

    def test_is_that_of_torchs_products(self) -> None:
        single = replace(PLAIN, dtype=DType.FLOAT32)
        for name, expected in (("highest", "ieee"), ("high", "tf32"), ("medium", "tf32")):
            torch.set_float32_matmul_precision(name)
            assert precision_of(single) == expected
            assert precision_of(PLAIN) == "ieee"

    def test_of_older_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Older:
            allow_tf32 = True

        monkeypatch.setattr(torch.backends.cuda, "matmul", Older)
        assert precision_of(replace(PLAIN, dtype=DType.FLOAT32)) == "tf32"
        monkeypatch.setattr(Older, "allow_tf32", False)
        assert precision_of(replace(PLAIN, dtype=DType.FLOAT32)) == "ieee"


class TestSpecification:
    def test_growing_lengths_and_other_windows_are_one_kernel(self) -> None:
        specs = set()
        for length in range(2000, 6000, 130):
            window = trace(sliding_window(length // 9))
            problem = replace(
                PLAIN, q_len=length, kv_len=length, mask_mod=ModFacts(window.structure, window.numbers)
            )
            key = key_of(problem, "cuda:90")
            specs.add(specify(problem, KernelKind.FORWARD, key, Tile(64, 64), mods_of(problem), GIVEN))
        assert len(specs) == 1

    def test_a_lone_mask_has_the_place_of_a_block_masks(self) -> None:
        lone = key_of(replace(PLAIN, mask_mod=CAUSAL), "cuda:90")
        assert (lone.mask, lone.mask_mod) == (CAUSAL.structure, None)
        blocks = BlockFacts(CAUSAL, 1, 1, 128, 128, True)
        assert key_of(replace(PLAIN, block_mask=blocks), "cuda:90") == lone

    def test_each_kernel_of_gradients_computes_its_own(self) -> None:
        slopes = torch.ones(8)
        program = trace(lambda s, b, h, q, k: s + slopes[h] * (q - k))
        score = ModFacts(program.structure, program.numbers, ((8,),), (True,))
        problem = replace(PLAIN, score=score, outputs=Outputs(lse=True))
        wanted, key = Wanted(True, True, True, True, (True,)), key_of(problem, "cuda:90")
        ways, given = (CaptureWay.PER_TILE,), GIVEN._replace(layouts=(Layout(True, False, True),))
        of_queries, of_keys = (
            specify_gradient(problem, kind, key, Tile(64, 64), mods_of(problem), given, wanted, ways)
            for kind in (KernelKind.QUERY_GRADIENT, KernelKind.KEY_GRADIENT)
        )
        assert of_queries.key.wanted == Wanted(query=True, captures=(True,))
        assert of_keys.key.wanted == Wanted(key=True, value=True, captures=(True,))
        assert of_keys.ways == ways
        assert of_keys.score_gradient is not None
        assert of_keys.program(Which.SCORE_GRADIENT) is not None

    @pytest.mark.parametrize(("scale", "positive"), [(0.125, True), (0.0, False), (-1.0, False)])
    def test_a_positive_scale_is_told_where_it_matters(self, scale: float, positive: bool) -> None:
        problem = replace(PLAIN, scale=scale)
        key = key_of(problem, "cuda:90")
        told = {
            kind: specify(problem, kind, key, Tile(64, 64), {}, GIVEN).positive_scale for kind in KernelKind
        }
        assert told.pop(KernelKind.FORWARD) is positive
        assert told.pop(KernelKind.SPLIT) is positive
        assert not any(told.values())

    def test_how_captures_lie_is_told_of_each(self) -> None:
        """Of a kernel of gradients too, for all programs that it runs."""
        wide, aslant = torch.zeros(1).expand(8, 2**31), torch.zeros(8)

        def score(s, b, h, q, k):
            return s + aslant[h] + wide[h, k]

        program, ids = trace(score), torch.zeros(4096)
        document = trace(lambda b, h, q, k: ids[q] == ids[k])
        problem = replace(
            PLAIN,
            score=ModFacts(program.structure, program.numbers, ((8,), (8, 2**31)), (False, True)),
            mask_mod=ModFacts(document.structure, document.numbers, ((4096,),)),
            outputs=Outputs(lse=True),
        )
        layouts = (Layout(True, False, True), Layout(True, False, False), Layout(False, True, True))
        given, key, mods = GIVEN._replace(layouts=layouts), key_of(problem, "cuda:90"), mods_of(problem)
        wanted = Wanted(query=True, key=True, captures=(False, True))
        specs = [specify(problem, KernelKind.FORWARD, key, Tile(64, 64), mods, given)]
        for kind in (KernelKind.QUERY_GRADIENT, KernelKind.KEY_GRADIENT):
            ways = (CaptureWay.PER_KEY,)
            specs.append(specify_gradient(problem, kind, key, Tile(64, 64), mods, given, wanted, ways))
        for spec in specs:
            assert spec.wide_captures == {(Which.SCORE, 1)}
            assert spec.aligned_captures == {(Which.MASK, 0), (Which.SCORE, 1)}
            source = write(spec)
            types = {each.name: (each.type, each.divisible) for each in source.parameters}
            assert types["score_c1_s1"][0] == types.get("score_c1_n1", ("i64",))[0] == "i64"
            assert types["score_c0"][1] == 1
            assert types["mask_c0"][1] == types["score_c1"][1] == 16
            assert types["score_c1_s1"][1] == 8

    def test_what_the_speed_of_tiles_depends_on(self) -> None:
        def question(**change: object) -> str:
            problem = replace(PLAIN, **change)
            return question_of(problem, KernelKind.FORWARD, key_of(problem, "cuda:90"))

        assert question() == question(kv_len=4000) == question(scale=3.0)
        assert (
            len({question(), question(kv_len=8000), question(mask_mod=CAUSAL), question(dropout_p=0.5)}) == 4
        )


class TestAnalysis:
    def test_pays_where_there_is_much_to_save(self) -> None:
        assert analysis_pays(replace(PLAIN, mask_mod=CAUSAL))
        assert not analysis_pays(replace(PLAIN, mask_mod=CAUSAL, q_len=128, kv_len=128))
        assert not analysis_pays(decoding(mask_mod=CAUSAL))
        assert not analysis_pays(PLAIN)

    def test_pays_later_where_the_device_must_be_waited_for(self) -> None:
        reading = replace(CAUSAL, capture_shapes=((4096,),))
        assert not analysis_pays(replace(PLAIN, mask_mod=reading, q_len=2048))
        assert analysis_pays(replace(PLAIN, mask_mod=reading, batch=16))
