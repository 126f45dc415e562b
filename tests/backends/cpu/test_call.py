"""The host side of the CPU engine: what reaches a kernel, and what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import oracle
from cpu_executor import Executor
from saccade import AuxRequest, create_block_mask
from saccade.attention.request import Arguments, read_request
from saccade.backends.base import Results
from saccade.backends.cpu import CpuBackend, specialise
from saccade.backends.cpu import backend as cpu_backend
from saccade.backends.cpu import call as cpu_call
from saccade.backends.cpu import operands as cpu_operands
from saccade.backends.eager import EagerBackend
from saccade.backends.poison import Place, raise_poison
from saccade.block_mask import BlockMask
from saccade.codegen.program.which import Which
from saccade.errors import DivisionByZeroError, IndexOutOfRangeError
from saccade.ir.structure import ModKind
from saccade.masks import shift, sliding_window
from saccade.schedule import Schedule
from saccade.tracing import trace


@pytest.fixture(params=["numpy", "machine code"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    """What runs the argument blocks: kernels of numpy, which tell what they were given, or the real ones."""
    kernels = Executor()
    if request.param == "numpy":
        monkeypatch.setattr(cpu_call, "load_kernel", kernels.load)
    cpu_backend._made_ready.cache_clear()  # its kernels may be those of the other kind
    yield kernels
    cpu_backend._made_ready.cache_clear()
    assert not kernels.faults, kernels.faults


def attend(
    *tensors: Tensor,
    schedule: Schedule | None = None,
    backend_of: CpuBackend | None = None,
    **arguments: object,
) -> Results:
    """The backend's results, every output asked for."""
    wanted = AuxRequest(lse=True, max_scores=True)
    request = read_request(Arguments(*tensors, enable_gqa=True, return_aux=wanted, **arguments))
    backend = backend_of or CpuBackend()
    assert backend.unsupported_reasons(request.problem) == []
    return backend.compile(request.problem, schedule or Schedule())(request.drawn())


def draw(
    batch: int = 2,
    kv_batch: int | None = None,
    heads: tuple[int, int] = (4, 2),
    lengths: tuple[int, int] = (37, 51),
    dims: tuple[int, int] = (6, 5),
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    kv_batch = batch if kv_batch is None else kv_batch
    query = torch.randn(batch, heads[0], lengths[0], dims[0], dtype=dtype)
    key = torch.randn(kv_batch, heads[1], lengths[1], dims[0], dtype=dtype)
    return query, key, torch.randn(kv_batch, heads[1], lengths[1], dims[1], dtype=dtype)


def check(found: Results, expected: oracle.Reference, tolerance: float = 1e-5) -> None:
    close = {"atol": tolerance, "rtol": tolerance}
    torch.testing.assert_close(found.out.double(), expected.out, **close)
    torch.testing.assert_close(found.lse.double(), expected.lse, **close)
    torch.testing.assert_close(found.max_scores.double(), expected.max_scores, **close)


LENGTHS = {"forward": (37, 51), "decode": (3, 51)}
both_kernels = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)


def late(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    """Every row sees something in both lengths; nothing is visible in some blocks."""
    return kv_idx <= q_idx + 14


def by_batch_and_head(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (kv_idx + q_idx) % (b + h + 2) == 0


def biased(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score * (h + 1) - 0.25 * (q_idx - kv_idx)


@both_kernels
class TestResults:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_plain(self, executor: Executor, lengths: tuple[int, int], dtype: torch.dtype) -> None:
        tensors = draw(lengths=lengths, dtype=dtype)
        found = attend(*tensors)
        assert found.out.dtype is dtype
        assert found.lse.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        check(found, oracle.attention(*tensors), 2 * torch.finfo(dtype).eps + 1e-6)

    def test_one_kv_batch_serves_all(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors = draw(batch=3, kv_batch=1, lengths=lengths)
        check(attend(*tensors, mask_mod=late), oracle.attention(*tensors, mask=late))

    @pytest.mark.parametrize("mod", [late, by_batch_and_head], ids=["shared", "each"])
    def test_a_block_mask(self, executor: Executor, lengths: tuple[int, int], mod: object) -> None:
        tensors = draw(lengths=lengths)
        for block in (8, (5, 16), 128):
            mask = create_block_mask(mod, 2, 4, *lengths, device="cpu", BLOCK_SIZE=block)
            check(attend(*tensors, block_mask=mask), oracle.attention(*tensors, mask=mod))

    def test_a_block_mask_and_a_mask_mod(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors = draw(lengths=lengths)
        mask = create_block_mask(late, None, None, *lengths, device="cpu", BLOCK_SIZE=8)
        found = attend(*tensors, block_mask=mask, mask_mod=by_batch_and_head)
        both = lambda *pair: late(*pair) & by_batch_and_head(*pair)  # noqa: E731
        check(found, oracle.attention(*tensors, mask=both))

    def test_given_blocks_are_the_truth(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors = draw(lengths=lengths)
        rows, columns = -(-lengths[0] // 8), -(-lengths[1] // 8)
        partial = torch.rand(2, 4, rows, columns) < 0.4
        full = ~partial & (torch.rand(2, 4, rows, columns) < 0.4)
        lists = [
            part
            for kinds in (partial, full)
            for part in (kinds.sum(-1), kinds.int().argsort(dim=-1, descending=True, stable=True))
        ]
        mask = BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=8, mask_mod=late, seq_lengths=lengths)
        found = attend(*tensors, block_mask=mask)
        visible = mask.to_bool()
        check(found, oracle.attention(*tensors, mask=lambda b, h, q, k: visible[b, h, q, k]))

    def test_score_sinks_and_scale(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors, sinks = draw(lengths=lengths), torch.randn(4, dtype=torch.float16)
        for scale in (-0.5, 0.0, 2.0):
            found = attend(*tensors, score_mod=biased, mask_mod=late, sinks=sinks, scale=scale)
            expected = oracle.attention(*tensors, score=biased, mask=late, sinks=sinks, scale=scale)
            check(found, expected)

    @pytest.mark.parametrize("p", [0.3, 1.0])
    def test_dropout_is_the_stream_of_every_backend(
        self, executor: Executor, lengths: tuple[int, int], p: float
    ) -> None:
        tensors = draw(lengths=lengths)
        torch.manual_seed(3)
        found = attend(*tensors, dropout_p=p, mask_mod=late)
        torch.manual_seed(3)
        request = read_request(Arguments(*tensors, enable_gqa=True, dropout_p=p, mask_mod=late))
        expected = EagerBackend().compile(request.problem, Schedule())(request.drawn())
        torch.testing.assert_close(found.out, expected.out)

    def test_rows_that_see_nothing(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors = draw(lengths=lengths)
        mask = create_block_mask(lambda b, h, q, k: q < 0, None, None, *lengths, device="cpu")
        found = attend(*tensors, block_mask=mask)
        assert (found.out == 0).all()
        assert (found.lse == -torch.inf).all()
        assert (found.max_scores == -torch.inf).all()


@both_kernels
class TestMemory:
    def test_any_strides(self, executor: Executor, lengths: tuple[int, int]) -> None:
        query, key, value = draw(lengths=lengths)
        expected = oracle.attention(query, key, value)
        by_token = query.transpose(1, 2).contiguous().transpose(1, 2)
        found = attend(by_token, key.transpose(2, 3).contiguous().transpose(2, 3), value[:, :, :, :])
        check(found, expected)
        assert found.out.stride() == torch.empty(2, lengths[0], 4, 5).transpose(1, 2).stride()
        spread = torch.full((2, 2, 2 * lengths[1], 7), torch.nan)
        spread[:, :, ::2, 1:6] = value
        check(attend(query, key, spread[:, :, ::2, 1:6]), expected)

    def test_expanded_batches(self, executor: Executor, lengths: tuple[int, int]) -> None:
        query, key, value = draw(batch=1, lengths=lengths)
        wide = [tensor.expand(3, -1, -1, -1) for tensor in (query, key, value)]
        check(attend(*wide), oracle.attention(*wide))

    def test_numbers_with_a_pending_sign(self, executor: Executor, lengths: tuple[int, int]) -> None:
        query, key, value = draw(lengths=lengths)
        negated = torch.complex(torch.zeros_like(query), query).conj().imag
        assert negated.is_neg()
        check(attend(negated, key, value), oracle.attention(-query, key, value))

    def test_one_feature(self, executor: Executor, lengths: tuple[int, int]) -> None:
        query, key, value = draw(lengths=lengths, dims=(1, 1))
        odd = value.as_strided(value.shape, (*value.stride()[:3], 7))
        check(attend(query, key, odd), oracle.attention(query, key, value))


TABLES = [
    torch.randn(2, 4),
    torch.randn(4, 2).T,
    torch.randn(2, 8)[:, ::2],
    torch.randn(2, 4, dtype=torch.bfloat16),
    torch.randint(-3, 3, (2, 4), dtype=torch.int8),
    torch.rand(2, 4) < 0.5,
    np.random.default_rng(1).normal(size=(2, 4)),
    np.random.default_rng(1).normal(size=(2, 4))[::-1, ::-1],
    np.random.default_rng(1).normal(size=(2, 4)).astype(">f8"),
    torch.randn(2, 4, requires_grad=True),
]


@both_kernels
class TestCaptures:
    @pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.dtype}{list(table.shape)}")
    def test_any_dtype_and_strides(
        self, executor: Executor, lengths: tuple[int, int], table: Tensor | np.ndarray
    ) -> None:
        tensors = draw(lengths=lengths)
        plain = torch.from_numpy(table.astype(np.float64)) if isinstance(table, np.ndarray) else table
        mod = lambda score, b, h, q, k: score + plain[b, h]  # noqa: E731
        program = dataclasses.replace(trace(mod, ModKind.SCORE), captures=(table,))
        with torch.no_grad():
            check(attend(*tensors, score_mod=program), oracle.attention(*tensors, score=mod))

    def test_a_number_and_a_scalar(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors, scalar = draw(lengths=lengths), torch.tensor(-1.5, dtype=torch.float64)
        mod = lambda score, b, h, q, k: score * scalar + (k + 2**40) % 7 - 0.25  # noqa: E731
        check(attend(*tensors, score_mod=mod), oracle.attention(*tensors, score=mod))

    def test_a_changed_tensor_is_seen(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors, table = draw(lengths=lengths), torch.zeros(lengths[1])
        mod = lambda score, b, h, q, k: score + table[k]  # noqa: E731
        for _ in range(2):
            check(attend(*tensors, score_mod=mod), oracle.attention(*tensors, score=mod))
            table.copy_(torch.randn(lengths[1]))


class TestLoneMasks:
    """A mask_mod without a block mask."""

    def test_a_small_one_is_asked_everywhere(
        self, executor: Executor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cpu_operands, "create_block_mask", _never)
        tensors = draw()
        check(attend(*tensors, mask_mod=late), oracle.attention(*tensors, mask=late))

    @pytest.mark.parametrize("lengths", [(300, 400), (1, 9000)], ids=["forward", "decode"])
    def test_a_large_one_is_analysed(
        self, executor: Executor, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int]
    ) -> None:
        made: list[BlockMask] = []
        keep = lambda *given, **named: made.append(create_block_mask(*given, **named)) or made[-1]  # noqa: E731
        monkeypatch.setattr(cpu_operands, "create_block_mask", keep)
        monkeypatch.setattr(specialise, "_ANALYSED_BYTES", 0)
        monkeypatch.setattr(specialise, "_ANALYSED_EACH_TIME", 0)
        executor.partial_bytes = 1 << 18
        tensors, offset = draw(lengths=lengths), torch.tensor(lengths[1] - lengths[0])
        window = shift(sliding_window(50), q=lengths[1] - lengths[0])
        kernel = lambda mod: attend(*tensors, mask_mod=mod, backend_of=kernels)  # noqa: E731
        kernels = CpuBackend()
        for _ in range(2):
            check(kernel(window), oracle.attention(*tensors, mask=window))
        assert len(made) == 1, "it reads no tensor, so it is analysed once"
        moved = lambda b, h, q, k: (q + offset >= k) & (q + offset - k < 50)  # noqa: E731
        for _ in range(2):
            check(kernel(moved), oracle.attention(*tensors, mask=moved))
            offset -= 60
        assert len(made) == 3, "its tensor may have changed, so it is analysed anew"
        assert len({spec.key.mask for spec in executor.specs}) in (0, 2)


def _never(*_: object, **__: object) -> BlockMask:
    raise AssertionError("expected no analysis")


@both_kernels
class TestPoison:
    def test_a_score(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors, table = draw(lengths=lengths), torch.zeros(20)
        mod = lambda score, b, h, q, k: score + table[k]  # noqa: E731
        seen = lambda b, h, q, k: k < 20  # noqa: E731
        check(attend(*tensors, score_mod=mod, mask_mod=seen), oracle.attention(*tensors, mask=seen))
        with pytest.raises(IndexOutOfRangeError, match=r"table.*20"):
            attend(*tensors, score_mod=mod, mask_mod=lambda b, h, q, k: k < 21)

    def test_a_score_by_its_value(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors, table = draw(lengths=lengths, dtype=torch.float64), torch.zeros(1)
        with pytest.raises(IndexOutOfRangeError, match="table"):
            attend(*tensors, score_mod=lambda score, b, h, q, k: score + table[(score * 100).long()])

    def test_a_mask(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors, table = draw(lengths=lengths), torch.ones(20, dtype=torch.bool)
        with pytest.raises(IndexOutOfRangeError, match=r"table\[kv_idx\]"):
            attend(*tensors, mask_mod=lambda b, h, q, k: table[k])
        few = create_block_mask(lambda b, h, q, k: k < 13, None, None, *lengths, device="cpu", BLOCK_SIZE=8)
        with pytest.raises(DivisionByZeroError, match="kv_idx"):
            attend(*tensors, block_mask=few, mask_mod=lambda b, h, q, k: q // (k - 12) == 0)
        hidden = attend(*tensors, block_mask=few, mask_mod=lambda b, h, q, k: q // (k - 13) <= 0)
        assert hidden.out.isfinite().all()

    def test_given_blocks_do_not_ask_everywhere(self, executor: Executor, lengths: tuple[int, int]) -> None:
        tensors, table = draw(lengths=lengths), torch.ones(20, dtype=torch.bool)
        rows, columns = -(-lengths[0] // 10), -(-lengths[1] // 10)
        counts, order = torch.full((1, 1, rows), 2), torch.arange(columns).expand(1, 1, rows, -1)
        given = {"BLOCK_SIZE": 10, "mask_mod": lambda b, h, q, k: table[k], "seq_lengths": lengths}
        attend(*tensors, block_mask=BlockMask.from_kv_blocks(counts, order, **given))
        mask = BlockMask.from_kv_blocks(counts + 1, order, **given)
        with pytest.raises(IndexOutOfRangeError, match="index 20"):
            attend(*tensors, block_mask=mask)


class TestPlaces:
    """What the interpreter says of a place is what it says pair by pair, though it is asked row by row."""

    def test_the_first_pair_is_told_whichever_program_it_is_of(self) -> None:
        short, shorter = torch.ones(5, dtype=torch.bool), torch.zeros(3)
        mods = {
            "mask_mod": lambda b, h, q, k: (q > 0) & short[torch.where(q > 0, k, 0)],
            "score_mod": lambda score, b, h, q, k: score + shorter[k],
        }
        tensors = draw(batch=1, heads=(1, 1), lengths=(3, 8))
        request = read_request(Arguments(*tensors, **mods))
        programs = {Which.SCORE: request.operands.score, Which.MASK_MOD: request.operands.mask}
        for keys, told in (
            (range(1, 8), r"shorter has 3 .* index 3 "),
            (range(5, 8), "short has 5 .* index 5 "),
        ):
            place = Place(Which.SCORE, 0, 0, range(3), keys)
            with pytest.raises(IndexOutOfRangeError, match=told + r".*at \(b=0, h=0, q_idx=1, kv_idx=\d\)"):
                raise_poison(request.problem, request.operands, programs, place)

    def test_tensors_are_brought_to_the_host_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        table, brought = torch.zeros(20), []

        class Counted(Tensor):
            def cpu(self) -> Tensor:
                brought.append(self.shape)
                return super().cpu()

        counted = torch.zeros(20).as_subclass(Counted)
        tensors = draw(batch=1, heads=(1, 1), lengths=(9, 21))
        request = read_request(Arguments(*tensors, score_mod=lambda s, b, h, q, k: s + table[q + k]))
        score = request.operands.score
        assert score is not None
        programs = {Which.SCORE: dataclasses.replace(score, captures=(counted,))}
        place = Place(Which.SCORE, 0, 0, range(9), range(13))
        with pytest.raises(IndexOutOfRangeError, match=r"index 20 .*q_idx=8, kv_idx=12"):
            raise_poison(request.problem, request.operands, programs, place)
        assert len(brought) == 1


def test_an_error_that_rounding_hides() -> None:
    table = torch.zeros(1)
    tensors = draw(batch=1, heads=(1, 1), lengths=(1, 3))
    mods = {"score_mod": lambda score, b, h, q, k: score + table[torch.floor(score * 0).long()]}
    request = read_request(Arguments(*tensors, **mods))
    programs, place = {Which.SCORE: request.operands.score}, Place(Which.SCORE, 0, 0, range(1), range(1, 3))
    with pytest.raises(IndexOutOfRangeError, match=r"score_mod must .* kv_idx in 1\.\.2, where it depends"):
        raise_poison(request.problem, request.operands, programs, place)
