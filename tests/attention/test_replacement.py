"""`replace_sdpa`: models give what they gave, the right calls are taken, others reach torch and are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention as imported_early
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import saccade
from saccade.attention import Replaced, replace_sdpa, replacement
from saccade.errors import ArgumentError
from saccade.planner import backend_names

PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
AHEAD = nn.Transformer.generate_square_subsequent_mask(5)


def operands(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = torch.randn(3, *(shape or (2, 3, 5, 8)), requires_grad=True).unbind()
    return query, key, value


def assert_same(compute: Callable[[], Tensor], module: nn.Module, calls: int, **tolerance: float) -> None:
    """A module's output and gradients are the same inside; so many calls are taken and none passed on."""
    results = []
    for context in (None, replace_sdpa(backend="eager")):
        module.zero_grad()
        if context is None:
            out = compute()
            out.square().mean().backward()
        else:
            with context as replaced:
                out = compute()
            out.square().mean().backward()
        results.append(
            (out.detach(), [one.grad.clone() for one in module.parameters() if one.grad is not None])
        )
    torch.testing.assert_close(results[1], results[0], **tolerance)
    assert (replaced.taken, replaced.passed_on) == (calls, 0)
    assert results[0][1]


class TestModels:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"mask": AHEAD},
            {"mask": AHEAD, "is_causal": True},
            {"src_key_padding_mask": PADDED.float() * -1e9},
        ],
        ids=["plain", "mask", "causal", "padded"],
    )
    def test_transformer_encoder(self, options: dict[str, object], training: bool) -> None:
        layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False).train(training)
        tokens = torch.randn(2, 5, 16)
        assert_same(lambda: encoder(tokens, **options), encoder, calls=2)

    # Torch's fused path packs padded rows into a nested tensor, of which it warns itself.
    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
    def test_the_fused_inference_path_of_an_encoder(self) -> None:
        layer = nn.TransformerEncoderLayer(16, nhead=2, dim_feedforward=32, batch_first=True)
        encoder = nn.TransformerEncoder(layer, num_layers=2).eval()
        tokens = torch.randn(2, 5, 16)
        with torch.no_grad():
            fused = encoder(tokens, src_key_padding_mask=PADDED)
            with replace_sdpa(backend="eager") as replaced:
                ours = encoder(tokens, src_key_padding_mask=PADDED)
            again = encoder(tokens, src_key_padding_mask=PADDED)
        torch.testing.assert_close(ours[~PADDED], fused[~PADDED])
        torch.testing.assert_close(again, fused, rtol=0.0, atol=0.0)
        assert (replaced.taken, replaced.passed_on) == (2, 0)

    def test_transformer_with_a_decoder(self) -> None:
        model = nn.Transformer(16, 2, 1, 1, dim_feedforward=32, dropout=0.0, batch_first=True)
        source, target = torch.randn(2, 7, 16), torch.randn(2, 5, 16)
        assert_same(lambda: model(source, target, tgt_mask=AHEAD, tgt_is_causal=True), model, calls=3)

    @pytest.mark.parametrize("training", [True, False])
    def test_multihead_attention(self, training: bool) -> None:
        attention = nn.MultiheadAttention(16, 2, batch_first=True).train(training)
        tokens = torch.randn(2, 5, 16)
        options = {"key_padding_mask": PADDED, "need_weights": False}
        assert_same(lambda: attention(tokens, tokens, tokens, **options)[0], attention, calls=1)

    def test_multihead_attention_asked_for_weights_does_without(self) -> None:
        attention, tokens = nn.MultiheadAttention(16, 2), torch.randn(5, 2, 16)
        with replace_sdpa(backend="eager") as replaced:
            _, weights = attention(tokens, tokens, tokens)
        assert weights is not None
        assert (replaced.taken, replaced.passed_on) == (0, 0)

    @pytest.mark.parametrize("padded", [False, True])
    @pytest.mark.parametrize(
        "model",
        [
            lambda: GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=50,
                    n_positions=16,
                    n_embd=16,
                    n_layer=2,
                    n_head=2,
                    attn_implementation="sdpa",
                    resid_pdrop=0.0,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                )
            ),
            lambda: LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=50,
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    attn_implementation="sdpa",
                )
            ),
        ],
        ids=["GPT2", "Llama"],
    )
    def test_transformers(self, model: Callable[[], PreTrainedModel], padded: bool) -> None:
        built = model()
        ids = torch.randint(50, (2, 5))
        mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1]]) if padded else None
        assert_same(lambda: built(ids, attention_mask=mask).logits, built, calls=2)
        with torch.no_grad():
            theirs = built.generate(
                ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0
            )
            with replace_sdpa(backend="eager") as replaced:
                ours = built.generate(
                    ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0
                )
        assert torch.equal(ours, theirs)
        assert (replaced.taken, replaced.passed_on) == (2 * 4, 0)


class TestWhatIsTaken:
    @pytest.mark.parametrize(
        "call",
        [
            functional.scaled_dot_product_attention,
            imported_early,
            lambda query, key, value: torch._C._nn.scaled_dot_product_attention(query, key=key, value=value),
        ],
        ids=["by attribute", "imported early", "by keyword"],
    )
    def test_the_function_under_every_name(self, call: Callable[..., Tensor]) -> None:
        query, key, value = operands()
        with replace_sdpa(backend="eager") as replaced:
            call(query, key, value)
        assert replaced.backends == {"eager": 1}

    def test_a_parameter_is_a_tensor(self) -> None:
        query = nn.Parameter(torch.randn(2, 5, 8))
        with replace_sdpa(backend="eager") as replaced:
            imported_early(query, query, query, nn.Parameter(torch.zeros(5, 5))).sum().backward()
        assert (replaced.taken, replaced.passed_on) == (1, 0)

    def test_auto_takes_only_what_is_a_gain(self) -> None:
        query, key, value = operands()
        with replace_sdpa() as replaced:
            imported_early(query, key, value)
            imported_early(query, key, value, torch.zeros(5, 5))
        assert replaced.backends.keys().isdisjoint({"sdpa", "eager", "flex_attention"})
        assert replaced.taken + replaced.passed_on == 2

    def test_auto_takes_what_a_backend_that_is_a_gain_accepts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replacement, "_NO_GAIN", {"sdpa": "it is the function that was called"})
        query, key, value = operands(2, 3, 4, 8)
        with replace_sdpa() as replaced:
            imported_early(query, key, value, torch.zeros(4, 4))
        assert replaced.taken == 1

    def test_auto_tells_what_the_backends_that_are_a_gain_object_to(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = {name: "it is not asked here" for name in backend_names() if name != "sdpa"}
        monkeypatch.setattr(replacement, "_NO_GAIN", others)
        query, key, value = operands(1, 2, 5, 513)  # more dimensions than the engine has
        with replace_sdpa() as replaced:
            imported_early(query, key, value, torch.zeros(5, 5))
            monkeypatch.setenv("SACCADE_EAGER_LIMIT", "0")
            imported_early(query, key, value, torch.zeros(5, 5))
        assert replaced.reasons == {"sdpa: it changes no scores, and there is a score_mod": 2}

    def test_auto_without_an_engine_to_ask(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replacement, "_NO_GAIN", dict.fromkeys(backend_names(), "it is not asked here"))
        monkeypatch.setenv("SACCADE_EAGER_LIMIT", "0")
        query, key, value = operands(1, 2, 5, 513)
        with replace_sdpa() as replaced:
            imported_early(query, key, value)
            imported_early(query, key, value, torch.zeros(5, 5, requires_grad=True))
        assert (
            sum(count for reason, count in replaced.reasons.items() if "it is not asked here" in reason) == 1
        )
        assert replaced.reasons["no engine of Saccade's own was there to ask"] == 1

    def test_the_result_is_that_of_the_backend(self) -> None:
        query, key, value = operands()
        with replace_sdpa(backend="eager"):
            inside = imported_early(query, key, value, scale=0.3)
        ours = saccade.scaled_dot_product_attention(query, key, value, scale=0.3, backend="eager")
        torch.testing.assert_close(inside, ours, rtol=0.0, atol=0.0)

    def test_a_backend_that_calls_torch_in_turn(self) -> None:
        query, key, value = operands()
        with replace_sdpa(backend="sdpa") as replaced:
            out = imported_early(query, key, value, is_causal=True)
        torch.testing.assert_close(out, imported_early(query, key, value, is_causal=True))
        assert (replaced.taken, replaced.passed_on) == (1, 0)

    @pytest.mark.parametrize("by", ["Tensor.backward", "autograd.backward", "autograd.grad"])
    def test_a_checkpoint_calls_it_again_in_the_backward_pass(self, by: str) -> None:
        query, key, value = leaves = [tensor.detach().requires_grad_() for tensor in operands()]
        expected = torch.autograd.grad(imported_early(query, key, value).sum(), leaves)
        with replace_sdpa(backend="eager") as replaced:
            out = checkpoint(imported_early, query, key, value, use_reentrant=False).sum()
            if by == "autograd.grad":
                gradients = torch.autograd.grad(out, leaves)
            else:
                out.backward() if by == "Tensor.backward" else torch.autograd.backward(out)
                gradients = tuple(leaf.grad for leaf in leaves)
        torch.testing.assert_close(gradients, expected)
        assert (replaced.taken, replaced.passed_on) == (2, 0)


def nested() -> Tensor:
    rows = [torch.randn(3, 2, 8), torch.randn(4, 2, 8)]
    return torch.nested.nested_tensor(rows, layout=torch.jagged).transpose(1, 2)


class Tagged(Tensor):
    """A subclass of which nothing is known."""


def compiled(query: Tensor) -> Tensor:
    run = torch.compile(
        lambda query: imported_early(query, query, query), backend="aot_eager", fullgraph=True
    )
    out: Tensor = run(query)
    return out


PASSED_ON = {
    "nested in another dimension": (
        lambda query: imported_early(*[nested().transpose(1, 2)] * 3),
        "ragged in dimension 2, got",
    ),
    "nested with another layout": (
        lambda query: imported_early(*[torch.nested.nested_tensor([query[0]])] * 3),
        "must have the layout torch.jagged",
    ),
    "a subclass": (lambda query: imported_early(*[query.as_subclass(Tagged)] * 3), "of the subclass Tagged"),
    "vmap": (
        lambda query: torch.func.vmap(lambda one: imported_early(one, one, one))(query),
        "inside a transform of torch.func",
    ),
    "grad": (
        lambda query: torch.func.grad(lambda one: imported_early(one, one, one).sum())(query),
        "inside a transform of torch.func",
    ),
    "make_fx": (
        lambda query: make_fx(lambda one: imported_early(one, one, one))(query),
        "a dispatch mode watches its operations",
    ),
    "torch.compile": (compiled, "being compiled or exported"),
    "what is not defined here": (
        lambda query: imported_early(query, query, query, scale=float("inf")),
        "scale must be finite",
    ),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_nested_tensors_are_taken() -> None:
    query = nested()
    expected = imported_early(query, query, query)
    with replace_sdpa() as replaced:
        found = imported_early(query, query, query)
    assert (replaced.backends, replaced.passed_on) == ({"cpu": 1}, 0)
    torch.testing.assert_close(found.values(), expected.values())


class TestWhatIsPassedOn:
    @pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
    @pytest.mark.parametrize(("call", "reason"), PASSED_ON.values(), ids=PASSED_ON.keys())
    def test_reaches_torch_and_is_told(self, call: Callable[[Tensor], object], reason: str) -> None:
        query = torch.randn(2, 3, 5, 8)
        with replace_sdpa(backend="eager") as replaced:
            call(query)
        assert (replaced.taken, replaced.passed_on) == (0, 1)
        assert reason in next(iter(replaced.reasons))

    # Tracing is what torch itself says not to do any more.
    @pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
    def test_torch_jit(self) -> None:
        query = torch.randn(2, 3, 5, 8)
        with replace_sdpa(backend="eager") as replaced:
            torch.jit.trace(lambda one: imported_early(one, one, one), query, check_trace=False)
        assert replaced.reasons == {"it is being traced by torch.jit": 1}

    def test_what_the_named_backend_refuses(self) -> None:
        query, key, value = operands()
        with replace_sdpa(backend="sdpa") as replaced:
            out = imported_early(query, key, value, torch.ones(5, 5))
        torch.testing.assert_close(out, imported_early(query, key, value, torch.ones(5, 5)))
        assert replaced.reasons == {"sdpa: it changes no scores, and there is a score_mod": 1}

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"is_causal": True, "attn_mask": torch.ones(5, 5)}, "should not be set when is_causal"),
            ({"attn_mask": torch.ones(5, 6)}, "must match"),
            ({"dropout_p": 2.0}, "has to be between 0 and 1"),
        ],
    )
    def test_wrong_arguments_get_torchs_error(self, options: dict[str, object], error: str) -> None:
        query, key, value = operands()
        with (
            replace_sdpa(backend="eager") as replaced,
            pytest.raises(RuntimeError, match=error) as caught,
        ):
            imported_early(query, key, value[..., :4], **options)
        assert caught.type is RuntimeError
        assert (replaced.taken, replaced.passed_on) == (0, 1)

    def test_a_compiled_model_is_told_at_each_call(self) -> None:
        query = torch.randn(2, 3, 5, 8)
        run = torch.compile(lambda one: imported_early(one, one, one), backend="aot_eager", fullgraph=True)
        outside = run(query)
        with replace_sdpa(backend="eager") as replaced:
            for _ in range(3):
                torch.testing.assert_close(run(query), outside)
        assert replaced.reasons == {"it is being compiled or exported": 3}


class Watching(TorchFunctionMode):
    """Counts the calls it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


class TestTheContext:
    def test_contexts_nest_from_the_inside(self) -> None:
        query, key, value = operands()
        with replace_sdpa(backend="eager") as outer:
            with replace_sdpa(backend="eager") as inner:
                imported_early(query, key, value)
                imported_early(query, key, value, scale=float("inf"))
            imported_early(query, key, value)
        assert (inner.taken, inner.passed_on) == (1, 1)
        assert (outer.taken, outer.passed_on) == (1, 1)

    def test_what_a_backend_leaves_to_torch_the_next_context_sees(self) -> None:
        with replace_sdpa(backend="eager") as outer, replace_sdpa(backend="sdpa") as inner:
            imported_early(*operands())
        assert (inner.backends, outer.backends) == ({"sdpa": 1}, {"eager": 1})

    @pytest.mark.parametrize("watching_inside", [True, False])
    def test_other_modes_see_what_is_called(self, watching_inside: bool) -> None:
        attention, tokens = nn.MultiheadAttention(16, 2), torch.randn(5, 2, 16)
        with ExitStack() as stack:
            watching = Watching() if watching_inside else stack.enter_context(Watching())
            replaced = stack.enter_context(replace_sdpa(backend="eager"))
            if watching_inside:
                stack.enter_context(watching)
            attention(tokens, tokens, tokens, need_weights=False)
        assert ("multi_head_attention_forward" if watching_inside else "linear") in watching.seen
        assert replaced.taken == 1

    def test_under_a_default_device(self) -> None:
        attention, tokens = nn.MultiheadAttention(16, 2), torch.randn(5, 2, 16)
        with torch.device("cpu"), replace_sdpa(backend="eager") as replaced:
            attention(tokens, tokens, tokens, need_weights=False)
        assert replaced.taken == 1

    def test_an_exception_ends_it(self) -> None:
        query, key, value = operands()
        counted: list[Replaced] = []

        def fail() -> None:
            with replace_sdpa(backend="eager") as replaced:
                counted.append(replaced)
                imported_early(query, key, value)
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            fail()
        imported_early(query, key, value)
        assert counted[0].taken == 1

    def test_it_concerns_its_own_thread(self) -> None:
        query, key, value = operands()
        with replace_sdpa(backend="eager") as replaced:
            other = threading.Thread(target=imported_early, args=(query, key, value))
            other.start()
            other.join()
        assert (replaced.taken, replaced.passed_on) == (0, 0)

    def test_threads_count_for_themselves(self) -> None:
        counted: list[Replaced] = []

        def work(calls: int) -> None:
            query, key, value = operands()
            with replace_sdpa(backend="eager") as replaced:
                for _ in range(calls):
                    imported_early(query, key, value)
            counted.append(replaced)

        threads = [threading.Thread(target=work, args=(calls,)) for calls in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(one.taken for one in counted) == [1, 2, 3, 4]

    def test_as_a_decorator(self) -> None:
        query, key, value = operands()
        replaced_call = replace_sdpa(backend="eager")(imported_early)
        torch.testing.assert_close(replaced_call(query, key, value), imported_early(query, key, value))

    def test_no_backend_of_the_name(self) -> None:
        with pytest.raises(ArgumentError, match=r"backend must be one of 'auto'.*'nonsense'"):
            replace_sdpa(backend="nonsense").__enter__()


class TestWhatItTells:
    def test_nothing_happened(self) -> None:
        assert repr(Replaced()) == "Replaced(taken=0, passed_on=0)"

    def test_counts_by_backend_and_reason(self) -> None:
        replaced = Replaced()
        replaced.backends["cpu"] += 120
        replaced.reasons["it is nested"] += 3
        assert repr(replaced).splitlines() == [
            "Replaced(taken=120, passed_on=3)",
            "  120 taken by cpu",
            "    3 passed on: it is nested",
        ]

    def test_many_reasons_are_cut(self) -> None:
        replaced = Replaced()
        replaced.reasons.update({f"reason {number}": 1 for number in range(11)})
        assert repr(replaced).splitlines()[-1] == "  ... 3 more reasons in .reasons"
