"""While a graph is recorded, no value of a tensor decides which mask there is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode
from transformers import modeling_attn_mask_utils as theirs

import saccade.dense_masks as ours
from saccade.dense_masks import AttentionMaskConverter
from saccade.dense_masks.recording import is_recorded

pytestmark = [
    # transformers announces the removal of the module compared with.
    pytest.mark.filterwarnings("ignore:The attention mask API under:FutureWarning"),
    # torch announces that of jit.trace, which models still meet; and lengths that decide a branch are fixed
    # there.
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning"),
]

ONES, HOLED = torch.ones(2, 4), torch.tensor([[0.0, 1, 1, 1], [1, 1, 1, 1]])
EMBEDS = torch.zeros(2, 4, 3)


class Causal(torch.nn.Module):
    def forward(self, mask, embeds):
        shape = embeds.shape[:2]
        made = ours._prepare_4d_causal_attention_mask_for_sdpa(mask, shape, embeds, mask.shape[1] - shape[1])
        assert made is not None
        return made


class Padding(torch.nn.Module):
    def forward(self, mask):
        made = ours._prepare_4d_attention_mask_for_sdpa(mask, torch.float32)
        assert made is not None
        return made


class Converted(torch.nn.Module):
    def __init__(self, window=None):
        super().__init__()
        self.window = window

    def forward(self, mask, embeds):
        converter = AttentionMaskConverter(True, self.window)
        return converter.to_4d(mask, embeds.shape[1], embeds.dtype, mask.shape[1])


def recorded_by_jit(module, *inputs):
    # Its check compares the graph with a plain call, which has no need of a mask of ones.
    return torch.jit.trace(module, inputs, check_trace=False)


def recorded_by_export(module, *inputs):
    return torch.export.export(module, inputs).module()


def recorded_by_compile(module, *inputs):
    return torch.compile(module, fullgraph=True, backend="eager")


RECORDERS = [recorded_by_jit, recorded_by_export, recorded_by_compile]


@pytest.mark.parametrize("record", RECORDERS)
def test_a_graph_recorded_with_a_mask_of_ones_serves_a_mask_with_holes(record):
    graph = record(Causal(), ONES, EMBEDS)
    for mask in (ONES, HOLED):
        expected = AttentionMaskConverter(True).to_4d(mask, 4, key_value_length=4)
        assert torch.equal(graph(mask, EMBEDS), expected)
    graph = record(Padding(), ONES)
    for mask in (ONES, HOLED):
        assert torch.equal(graph(mask), ours._prepare_4d_attention_mask(mask))


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("record", RECORDERS)
def test_the_tensor_of_a_graph_is_that_of_a_plain_call(record, window):
    mask, embeds = torch.cat([HOLED, HOLED], dim=1), EMBEDS.half()
    graph = record(Converted(window), mask, embeds)
    made, expected = graph(mask, embeds), Converted(window)(mask, embeds)
    assert made.dtype is torch.float16
    assert torch.equal(made, expected)


@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_call_without_a_mask_ignores_it_in_training_alone(training):
    def ignored(library):
        def call(embeds):
            rule = library.AttentionMaskConverter
            return embeds + 1 if rule._ignore_causal_mask_sdpa(None, embeds, 0, None, training) else embeds

        return torch.compile(call, fullgraph=True, backend="eager")(EMBEDS)

    assert bool(ignored(ours).all()) is training


def test_a_compiled_call_serves_other_lengths():
    compiled = torch.compile(Converted(), fullgraph=True, backend="eager", dynamic=True)
    for length in (3, 5, 8):
        mask = torch.ones(1, length)
        mask[0, 0] = 0
        embeds = torch.zeros(1, length - 1, 2)
        assert torch.equal(compiled(mask, embeds), Converted()(mask, embeds))


def test_symbolic_tracing_keeps_the_mask():
    graph = torch.fx.symbolic_trace(Padding())
    for mask in (ONES, HOLED):
        assert torch.equal(graph(mask), ours._prepare_4d_attention_mask(mask))

    class Asks(torch.nn.Module):
        def forward(self, embeds):
            assert AttentionMaskConverter._ignore_causal_mask_sdpa(None, embeds, 0) is False
            assert theirs.AttentionMaskConverter._ignore_causal_mask_sdpa(None, embeds, 0) is False
            return embeds

    torch.fx.symbolic_trace(Asks())


def test_a_tensor_without_values_decides_nothing():
    with FakeTensorMode():
        mask, embeds = torch.ones(2, 4), torch.zeros(2, 4, 3)
        assert is_recorded(mask)
        for library in (ours, theirs):
            assert library._prepare_4d_attention_mask_for_sdpa(mask, torch.float32).shape == (2, 1, 4, 4)
            made = library._prepare_4d_causal_attention_mask_for_sdpa(mask, (2, 4), embeds, 0)
            assert made.shape == (2, 1, 4, 4)
    assert is_recorded(torch.ones(2, device="meta"))
    assert ours._prepare_4d_attention_mask_for_sdpa(torch.ones(2, 4, device="meta")).shape == (2, 1, 4, 4)
    assert not is_recorded(ONES)


def test_a_captured_stream_is_not_asked_for_values(monkeypatch):
    # What a tensor on a GPU tells; there may be none here.
    tensor = SimpleNamespace(is_meta=False, is_cuda=True)
    for capturing in (False, True):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda now=capturing: now)
        assert is_recorded(tensor) is capturing
        assert not is_recorded(ONES)


def test_a_recorded_graph_is_not_given_a_repair_that_depends_on_values(monkeypatch):
    monkeypatch.setattr("saccade.dense_masks.prepare._NEEDS_A_KEY", ("cpu",))
    made = recorded_by_compile(Causal())(HOLED, EMBEDS)
    assert torch.equal(made, AttentionMaskConverter(True).to_4d(HOLED, 4, key_value_length=4))
