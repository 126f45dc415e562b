"""Who computes a module's attention: named when it is made, switched for a whole model, seen to switch."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from saccade.errors import ArgumentError, ArgumentTypeError, BackendError
from saccade.nn import (
    FlashAttention,
    MultiheadAttention,
    MultiheadFlexAttention,
    set_attn_implementation,
)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = MultiheadFlexAttention(8, 8, 2)
        self.mlp = nn.Linear(8, 8)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.ModuleList(Layer() for _ in range(2))
        self.text = nn.ModuleDict({
            "encoder": Layer(), "encoder_late": Layer(), "pool": MultiheadAttention(8, 2, batch_first=True)
        })  # fmt: skip
        self.plain = FlashAttention()


def backends(model: nn.Module) -> dict[str, str]:
    return {
        name: module.attn_implementation  # type: ignore[misc]
        for name, module in model.named_modules()
        if hasattr(module, "attn_implementation")
    }


MODULES = {
    "MultiheadFlexAttention": lambda name: MultiheadFlexAttention(8, 8, 2, attn_implementation=name),
    "FlashAttention": lambda name: FlashAttention(attn_implementation=name),
    "MultiheadAttention": lambda name: MultiheadAttention(8, 2, attn_implementation=name),
}


class TestOneModule:
    @pytest.mark.parametrize("name", MODULES)
    def test_it_is_checked_when_made_and_when_assigned(self, name: str) -> None:
        text = "attn_implementation must be one of 'auto', .*'eager'.*, got 'flash_attention_9'"
        with pytest.raises(ArgumentError, match=text):
            MODULES[name]("flash_attention_9")
        module = MODULES[name]("sdpa")
        with pytest.raises(ArgumentError, match=text):
            module.attn_implementation = "flash_attention_9"
        assert module.attn_implementation == "sdpa"
        assert "attn_implementation='sdpa'" in repr(module)

    @pytest.mark.parametrize("name", MODULES)
    @pytest.mark.parametrize("backend", ["cpu", "eager", "sdpa"])
    def test_the_backend_that_is_named_runs(
        self, name: str, backend: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        module = MODULES[name]("auto")
        set_attn_implementation(module, backend)
        given = torch.randn(2, 5, 8)
        with caplog.at_level(logging.DEBUG, logger="saccade"):
            if isinstance(module, MultiheadFlexAttention):
                module(given)
            elif isinstance(module, FlashAttention):
                module(given[:, None], given[:, None], given[:, None])
            else:
                module(given, given, given)
        plans = [record.getMessage() for record in caplog.records if " runs " in record.getMessage()]
        assert [plan.split()[0] for plan in plans] == [backend]

    def test_a_backend_that_cannot_says_so_and_no_other_steps_in(self) -> None:
        module = MultiheadAttention(8, 2, batch_first=True, attn_implementation="sdpa")
        given = torch.randn(2, 5, 8)
        with pytest.raises(BackendError, match="backend='sdpa' does not take this call"):
            module(given, given, given, score_mod=lambda score, b, h, q_idx, kv_idx: score * 2)


class TestAModel:
    def test_a_name_switches_every_module(self) -> None:
        model = Model()
        set_attn_implementation(model, "eager")
        assert set(backends(model).values()) == {"eager"}
        assert len(backends(model)) == 6

    def test_a_dictionary_switches_what_its_keys_stand_for(self) -> None:
        model = Model()
        set_attn_implementation(model, {"vision": "eager", "vision.1": "sdpa", "text.encoder": "cpu"})
        assert backends(model) == {
            "vision.0.attention": "eager",
            "vision.1.attention": "sdpa",
            "text.encoder.attention": "cpu",
            "text.encoder_late.attention": "auto",
            "text.pool": "auto",
            "plain": "auto",
        }

    def test_the_empty_key_is_the_whole_model(self) -> None:
        model = Model()
        set_attn_implementation(model, {"text.pool": "cpu", "": "eager"})
        assert backends(model) == dict.fromkeys(backends(model), "eager") | {"text.pool": "cpu"}

    def test_modules_without_a_key_keep_theirs(self) -> None:
        model = Model()
        set_attn_implementation(model, "eager")
        set_attn_implementation(model, {"plain": "cpu"})
        assert backends(model)["vision.0.attention"] == "eager"
        assert backends(model)["plain"] == "cpu"

    def test_a_flash_module_turns_plain_and_back(self) -> None:
        model = Model()
        set_attn_implementation(model, "eager")
        assert not model.plain.flash
        set_attn_implementation(model, "auto")
        assert model.plain.flash


class TestRefusals:
    @pytest.mark.parametrize(
        ("implementation", "text"),
        [
            ("sdpaa", "implementation must be one of 'auto', .*, got 'sdpaa'"),
            (
                {"": "cpu", "text": "flash"},
                r"implementation\['text'\] must be one of 'auto', .*, got 'flash'",
            ),
            (
                {"": "cpu", "text.encodr": "cpu"},
                r"got 'text.encodr', which .*; did you mean 'text.encoder'\? there are .*'plain', and \"\" s",
            ),
            (
                {"": "cpu", "vision.0.mlp": "cpu"},
                "got 'vision.0.mlp', below which there is no module of saccade.nn; ",
            ),
            ({"text.encoder.": "cpu"}, "did you mean 'text.encoder'"),
            ({}, "implementation must name a submodule at least, got {}, which switches nothing"),
            ({"": "cpu", 0: "cpu"}, "got 0, which Model does not have; there are"),
        ],
    )
    def test_nothing_is_switched_when_anything_is_wrong(self, implementation: object, text: str) -> None:
        model = Model()
        before = backends(model)
        with pytest.raises(ArgumentError, match=text):
            set_attn_implementation(model, implementation)  # type: ignore[arg-type]
        assert backends(model) == before

    def test_a_long_list_of_modules_is_cut(self) -> None:
        model = nn.Sequential(*(MultiheadFlexAttention(8, 8, 2) for _ in range(11)))
        with pytest.raises(ArgumentError, match=r"there are '0', '1', .*'7' and 3 more, and \"\" stands"):
            set_attn_implementation(model, {"encoder": "cpu"})

    def test_a_model_without_modules_of_saccade(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(8, 2))
        with pytest.raises(ArgumentError, match=r"model must hold modules of saccade\.nn, got a Sequential"):
            set_attn_implementation(model, "cpu")

    def test_something_that_is_no_model(self) -> None:
        with pytest.raises(ArgumentTypeError, match=r"model must be a torch\.nn.Module, got str"):
            set_attn_implementation("cpu", "cpu")  # type: ignore[arg-type]

    def test_something_that_is_no_choice(self) -> None:
        with pytest.raises(
            ArgumentTypeError, match="implementation must be the name of a backend, or a dict"
        ):
            set_attn_implementation(Model(), None)  # type: ignore[arg-type]

    def test_one_module_under_two_names_gets_one_backend(self) -> None:
        shared = MultiheadFlexAttention(8, 8, 2)
        model = nn.ModuleDict({"first": shared, "last": shared})
        with pytest.raises(ArgumentError, match="got 'cpu' for 'first' and 'sdpa' for 'last', which are the"):
            set_attn_implementation(model, {"first": "cpu", "last": "sdpa"})
        assert shared.attn_implementation == "auto"
        set_attn_implementation(model, {"last": "sdpa"})
        assert shared.attn_implementation == "sdpa"
