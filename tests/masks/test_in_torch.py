"""The library's mods run inside torch's own flex_attention under torch.compile."""

from __future__ import annotations

import pytest
import torch
import torch.nn.attention.flex_attention as torch_flex

from saccade.masks import causal, document, jagged, natten, prefix_lm, random_blocks, shift, tree
from saccade.scores import alibi, bias


@pytest.mark.parametrize(
    "mask",
    [
        causal & document(lengths=[7, 13]),
        natten((4, 5), 3) | prefix_lm(torch.tensor([2, 3])),
        ~shift(causal, q=torch.tensor(-3)),
        jagged(prefix_lm(torch.tensor([2, 3])), [0, 7, 20]) | random_blocks(20, 4, 1),
        natten((4, 5), 3, order="tiled", tile=(2, 1)) | tree([-1, *range(19)]),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "score", [alibi(n_heads=2), bias(torch.linspace(-1, 1, 40).view(2, 1, 20))], ids=repr
)
def test_torch_compiles_them(mask, score):
    def run(query, key, value, block_mask):
        return torch_flex.flex_attention(query, key, value, score, block_mask)

    torch._dynamo.reset()
    block_mask = torch_flex.create_block_mask(mask, 2, None, 20, 20, device="cpu", BLOCK_SIZE=8)
    query, key, value = torch.randn(3, 2, 2, 20, 8).unbind()
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)(query, key, value, block_mask)
    scores = query @ key.mT / 8**0.5
    b, h, q_idx, kv_idx = (torch.arange(n) for n in (2, 2, 20, 20))
    indices = b[:, None, None, None], h[:, None, None], q_idx[:, None], kv_idx
    weights = score(scores, *indices).masked_fill(~mask(*indices), -torch.inf).softmax(dim=-1).nan_to_num()
    torch.testing.assert_close(compiled, weights @ value, rtol=1e-5, atol=1e-5)
