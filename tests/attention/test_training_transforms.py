"""Training through torch.func and torch.compile: the same gradients as in plain use, on the CPU engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo import compiled_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import oracle
from saccade import create_block_mask, flex_attention, trace
from saccade.block_mask import BlockMask, create_block_mask_cached, create_mask
from saccade.errors import StaleMaskError, UnsupportedError
from saccade.masks import causal, document, sliding_window

ENGINES = ["cpu", "eager"]
HEADS, LENGTH, WIDTH = 2, 11, 16


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def draw(count: int = 3, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(1, HEADS, 5, 4, dtype=dtype) for _ in range(count)]


def attend(query: Tensor, key: Tensor, value: Tensor, **options: object) -> Tensor:
    options = {"mask_mod": causal, "backend": "cpu", **options}
    return flex_attention(query, key, value, **options)  # type: ignore[call-overload, no-any-return]


def by_oracle(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return oracle.attention(query, key, value, mask=causal).out


def squared(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *tensors: function(*tensors).square().sum()


class TestFunctions:
    @pytest.mark.parametrize("argnums", [0, 2, (0, 1), (0, 1, 2)], ids=str)
    def test_grad(self, argnums: int | tuple[int, ...]) -> None:
        tensors = draw()
        found, expected = (
            torch.func.grad(squared(function), argnums)(*tensors) for function in (attend, by_oracle)
        )
        torch.testing.assert_close(found, expected)

    def test_grad_and_value(self) -> None:
        tensors = draw()
        found, expected = (
            torch.func.grad_and_value(squared(function))(*tensors) for function in (attend, by_oracle)
        )
        torch.testing.assert_close(found, expected)

    def test_vjp(self) -> None:
        tensors = draw()
        (out, pull), (expected, pull_expected) = (
            torch.func.vjp(function, *tensors) for function in (attend, by_oracle)
        )
        torch.testing.assert_close(out, expected)
        for _ in range(2):  # a pullback may be used again
            grad = torch.randn_like(out)
            torch.testing.assert_close(pull(grad), pull_expected(grad))

    @pytest.mark.parametrize("chunk_size", [None, 3])
    def test_jacrev(self, chunk_size: int | None) -> None:
        tensors = draw()
        found, expected = (
            torch.func.jacrev(function, (0, 1, 2), chunk_size=chunk_size)(*tensors)
            for function in (attend, by_oracle)
        )
        torch.testing.assert_close(found, expected)

    def test_many_pullbacks_at_once(self) -> None:
        tensors = draw()
        out, pull = torch.func.vjp(attend, *tensors)
        grads = torch.randn(3, *out.shape, dtype=out.dtype)
        each = [pull(grad) for grad in grads]
        expected = tuple(torch.stack(one) for one in zip(*each, strict=True))
        torch.testing.assert_close(torch.func.vmap(pull)(grads), expected, rtol=0, atol=0)

    def test_a_hessian_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"no gradient of its own|no forward-mode derivative"):
            torch.func.jacrev(torch.func.grad(squared(attend)))(*draw())

    def test_dropout_under_grad(self) -> None:
        tensors = draw()
        torch.manual_seed(3)
        expected = [tensor.clone().requires_grad_() for tensor in tensors]
        attend(*expected, dropout_p=0.4).square().sum().backward()
        torch.manual_seed(3)
        found = torch.func.grad(squared(lambda *ts: attend(*ts, dropout_p=0.4)), (0, 1, 2))(*tensors)
        torch.testing.assert_close(found, tuple(each.grad for each in expected))

    def test_auto_is_the_engine(self) -> None:
        tensors = draw()
        found = torch.func.grad(squared(lambda *ts: flex_attention(*ts, mask_mod=sliding_window(3))))(
            *tensors
        )
        leaf = tensors[0].clone().requires_grad_()
        attend(leaf, *tensors[1:], mask_mod=sliding_window(3)).square().sum().backward()
        torch.testing.assert_close(found, leaf.grad, rtol=0, atol=0)


def packed_mask(ids: Tensor, make: Callable[..., BlockMask] = create_block_mask) -> BlockMask:
    return make(document(ids), 1, None, 5, 5, device="cpu")


def drawn_ids() -> Tensor:
    return torch.randint(0, 3, (1, 5)).sort().values


class TestMasksMadeOnTheWay:
    @pytest.mark.parametrize("make", [create_block_mask, create_block_mask_cached])
    def test_inside_a_transform(self, make: Callable[..., BlockMask]) -> None:
        """From a tensor of the closure, one that the transform passes on, and one that two pass on."""
        (query, key, value), ids = draw(), drawn_ids()

        def attended(query: Tensor, ids: Tensor) -> Tensor:
            mask = packed_mask(ids, make)
            return attend(query, key, value, mask_mod=None, block_mask=mask).square().sum()

        def twice(query: Tensor, ids: Tensor) -> Tensor:
            def around(one: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
                return one, torch.func.grad(attended)(query, ids)

            return torch.func.grad(around, has_aux=True)(torch.ones(()), ids)[1]

        expected = torch.func.grad(
            lambda query: oracle.attention(query, key, value, mask=document(ids)).out.square().sum()
        )(query)
        for function in (
            torch.func.grad(lambda query, _: attended(query, ids)),
            torch.func.grad(attended),
            torch.func.grad(attended),  # the cached one, found again
            twice,
        ):
            torch.testing.assert_close(function(query, ids), expected)

    def test_dense_inside_a_transform(self) -> None:
        query, ids = torch.ones(()), drawn_ids()

        def scaled(query: Tensor, ids: Tensor) -> Tensor:
            return query * create_mask(document(ids), 1, None, 5, 5, device="cpu").sum()

        assert torch.func.grad(scaled)(query, ids) == scaled(query, ids)

    def test_a_mask_outlives_its_transform(self) -> None:
        (query, key, value), ids, kept = draw(), drawn_ids(), []

        def keep(query: Tensor, ids: Tensor) -> Tensor:
            kept.append(packed_mask(ids))
            return query.sum()

        torch.func.grad(keep)(query, ids)
        assert kept[0].refreshed() == packed_mask(ids)
        torch.testing.assert_close(
            attend(query, key, value, mask_mod=None, block_mask=kept[0]),
            oracle.attention(query, key, value, mask=document(ids)).out,
        )

    def test_a_write_inside_a_transform_is_seen(self) -> None:
        tensors = draw()

        def stale(query: Tensor, ids: Tensor) -> Tensor:
            ids = ids.clone()
            mask = packed_mask(ids)
            ids.add_(1)
            return attend(query, *tensors[1:], mask_mod=None, block_mask=mask).sum()

        with pytest.raises(StaleMaskError, match=r"ids.* has changed since"):
            torch.func.grad(stale)(tensors[0], drawn_ids())

    def test_samples_of_vmap(self) -> None:
        """A mask that they share is made; one of a sample's own is refused, and not as a mask_mod."""
        query, key, value = draw()
        queries, ids = (
            torch.stack([query, -query]),
            torch.stack([drawn_ids(), torch.tensor([[0, 0, 0, 1, 1]])]),
        )

        def attended(query: Tensor, ids: Tensor) -> Tensor:
            return attend(query, key, value, mask_mod=None, block_mask=packed_mask(ids), backend="auto")

        def by_mod(query: Tensor, ids: Tensor) -> Tensor:
            return attend(query, key, value, mask_mod=document(ids), backend="auto")

        found = torch.vmap(attended, (0, None))(queries, ids[0])
        torch.testing.assert_close(found, torch.stack([by_mod(query, ids[0]) for query in queries]))
        with pytest.raises(UnsupportedError, match=r"every sample of torch.vmap.*int64\[1, 5\].*mask_mod="):
            torch.vmap(attended)(queries, ids)
        found = torch.vmap(by_mod)(queries, ids)
        torch.testing.assert_close(
            found, torch.stack([by_mod(*sample) for sample in zip(queries, ids, strict=True)])
        )

    @pytest.mark.parametrize("make", [create_block_mask, create_block_mask_cached])
    def test_inside_a_compiled_function(self, make: Callable[..., BlockMask]) -> None:
        """The graph ends before the mask and another begins after it; once each, whatever the data."""
        (query, key, value), counter = draw(), CompileCounterWithBackend("aot_eager")
        query.requires_grad_()

        def attended(query: Tensor, tokens: Tensor) -> Tensor:
            mask = packed_mask((tokens == 0).cumsum(1), make)
            return attend(query * 2, key, value, mask_mod=None, block_mask=mask).square().sum()

        fast = torch.compile(attended, backend=counter)
        for _ in range(3):
            tokens = torch.randint(0, 3, (1, 5))
            found, expected = (torch.autograd.grad(run(query, tokens), query) for run in (fast, attended))
            torch.testing.assert_close(found, expected)
        assert counter.frame_count == 2

    def test_dense_inside_a_compiled_function(self) -> None:
        def shown(tokens: Tensor) -> Tensor:
            ids = (tokens == 0).cumsum(1)
            return create_mask(document(ids), 1, None, 5, 5, device="cpu").sum() + ids.sum()

        tokens = torch.tensor([[1, 0, 2, 0, 1]])
        assert torch.compile(shown, backend="eager")(tokens) == shown(tokens)

    @pytest.mark.parametrize("make", [create_block_mask, create_block_mask_cached, create_mask])
    def test_compiled_itself(self, make: Callable[..., object]) -> None:
        found = torch.compile(make, backend="eager")(causal, None, None, 5, 5, device="cpu")
        expected = make(causal, None, None, 5, 5, device="cpu")
        if isinstance(found, Tensor):
            torch.testing.assert_close(found, expected)
        else:
            assert found == expected

    def test_one_graph_is_refused(self) -> None:
        def attended(query: Tensor, ids: Tensor) -> Tensor:
            return attend(query, query, query, mask_mod=None, block_mask=packed_mask(ids))

        with pytest.raises(torch._dynamo.exc.Unsupported, match="outside the compiled part"):
            compiled(attended)(draw()[0], drawn_ids())


class Model(nn.Module):
    """One block of a transformer; its attention is what an engine computes, the rest torch's."""

    def __init__(self, engine: str, *, learns_bias: bool = False, **options: object) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.merge = nn.Linear(WIDTH, WIDTH)
        self.slopes = nn.Parameter(torch.randn(HEADS)) if learns_bias else None
        self.gain = nn.Parameter(torch.tensor(0.7)) if learns_bias else None
        self.options = {"mask_mod": causal, "backend": engine, **options}

    def tilted(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * self.gain + self.slopes[h] * (kv_idx - q_idx)  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(x).unflatten(-1, (3, HEADS, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        score_mod = None if self.slopes is None else self.tilted
        out = flex_attention(query, key, value, score_mod, **self.options)  # type: ignore[call-overload]
        return self.merge(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def gradients(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor | None]:
    model.zero_grad()
    run(x).square().mean().backward()
    return {name: one.grad for name, one in model.named_parameters()}


def drawn_x(length: int = LENGTH) -> Tensor:
    return torch.randn(2, length, WIDTH)


def compiled(function: Callable[..., Tensor], backend: object = "aot_eager") -> Callable[..., Tensor]:
    return torch.compile(function, backend=backend, fullgraph=True)  # type: ignore[call-overload, no-any-return]


OPTIONS: dict[str, dict[str, object]] = {
    "causal": {},
    "block mask": {
        "mask_mod": None,
        "block_mask": create_block_mask(
            document(lengths=[4, 7]) & causal, None, None, LENGTH, LENGTH, device="cpu", BLOCK_SIZE=4
        ),
    },
    "sinks": {"sinks": torch.randn(HEADS)},
}


@pytest.mark.parametrize("engine", ENGINES)
class TestModules:
    @pytest.mark.parametrize("learns_bias", [False, True])
    def test_functional_call(self, engine: str, learns_bias: bool) -> None:
        model, x = Model(engine, learns_bias=learns_bias), drawn_x()
        parameters = {name: one.detach() for name, one in model.named_parameters()}

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(model, parameters, (x,)).square().mean()  # type: ignore[no-any-return]

        torch.testing.assert_close(torch.func.grad(loss)(parameters), gradients(model, model, x))

    @pytest.mark.parametrize("learns_bias", [False, True])
    @pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
    @pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
    def test_compiled(
        self, compiler: str, options: dict[str, object], learns_bias: bool, engine: str
    ) -> None:
        model, x = Model(engine, learns_bias=learns_bias, **options), drawn_x()
        expected = gradients(model, model, x)
        torch.testing.assert_close(gradients(model, compiled(model, compiler), x), expected)

    def test_a_whole_step(self, engine: str) -> None:
        """Loss and all in one graph, with an optimizer after it; the models stay the same."""
        losses, states = [], []
        start = Model(engine).state_dict()
        for wrap in (lambda step: step, compiled):
            model = Model(engine)
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            loss_of = wrap(lambda x, model=model: model(x).square().mean())
            torch.manual_seed(2)
            for _ in range(3):
                optimizer.zero_grad()
                loss = loss_of(drawn_x())
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            states.append(model.state_dict())
        torch.testing.assert_close(losses[3:], losses[:3])
        torch.testing.assert_close(states[1], states[0])

    def test_frozen_parameters_and_inputs_that_learn(self, engine: str) -> None:
        model, x = Model(engine), drawn_x().requires_grad_()
        model.requires_grad_(False)
        (expected,) = torch.autograd.grad(model(x).square().sum(), x)
        (found,) = torch.autograd.grad(compiled(model)(x).square().sum(), x)
        torch.testing.assert_close(found, expected)

    def test_lengths_that_change_compile_twice(self, engine: str) -> None:
        model, counter = Model(engine), CompileCounterWithBackend("aot_eager")
        fast = compiled(model, counter)
        for length in (11, 7, 13, 29, 5):
            x = drawn_x(length)
            expected = gradients(model, model, x)
            torch.testing.assert_close(gradients(model, fast, x), expected)
        assert counter.frame_count == 2

    def test_dropout_repeats_with_the_seed(self, engine: str) -> None:
        model, x = Model(engine, dropout_p=0.5), drawn_x()
        fast, found = compiled(model), []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            found.append(gradients(model, fast, x)["project.weight"])
        torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
        assert not torch.equal(found[1], found[2])  # type: ignore[arg-type]
        torch.manual_seed(1)
        torch.testing.assert_close(gradients(model, model, x)["project.weight"], found[0])

    def test_autocast(self, engine: str) -> None:
        model, x = Model(engine), drawn_x()

        def run(x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return model(x)  # type: ignore[no-any-return]

        expected = gradients(model, run, x)
        torch.testing.assert_close(gradients(model, compiled(run), x), expected, rtol=0.02, atol=1e-4)

    @pytest.mark.filterwarnings("ignore")  # torch's own, of what it does there
    def test_compiled_autograd(self, engine: str) -> None:
        model, x = Model(engine, learns_bias=True), drawn_x()
        expected = gradients(model, model, x)
        with compiled_autograd._enable(torch.compile(backend="aot_eager")):
            found = gradients(model, model, x)
        torch.testing.assert_close(found, expected)

    def test_a_checkpoint_inside_the_graph_takes_programs(self, engine: str) -> None:
        model, x = Model(engine, mask_mod=trace(causal), dropout_p=0.5), drawn_x()
        found = []
        for run in (model, compiled(lambda x: checkpoint(model, x, use_reentrant=False))):
            torch.manual_seed(3)
            found.append(gradients(model, run, x))
        torch.testing.assert_close(found[1], found[0])

    def test_a_mask_that_grew_stale_on_the_way(self, engine: str) -> None:
        keep = torch.ones(LENGTH, dtype=torch.bool)
        mask = create_block_mask(
            lambda b, h, q_idx, kv_idx: keep[kv_idx] & (q_idx >= kv_idx),
            None,
            None,
            LENGTH,
            LENGTH,
            device="cpu",
        )
        model = Model(engine, mask_mod=None, block_mask=mask)
        out = compiled(model)(drawn_x())
        keep[2] = False
        with pytest.raises((StaleMaskError, RuntimeError), match=r"keep|modified by an inplace"):
            out.sum().backward()


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ on the PATH")
def test_inductor() -> None:
    model, x = Model("cpu", learns_bias=True), drawn_x()
    expected = gradients(model, model, x)
    torch.testing.assert_close(gradients(model, compiled(model, "inductor"), x), expected)
