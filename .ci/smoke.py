"""What an installed Saccade must do before anything else is asked of it: a mask, attention, a gradient."""

import torch

import saccade

mask = saccade.causal & saccade.document(lengths=[100, 156])
block_mask = saccade.create_block_mask(mask, B=None, H=None, Q_LEN=256, KV_LEN=256)
query, key, value = torch.randn(3, 1, 2, 256, 16, requires_grad=True).unbind()
out = saccade.flex_attention(query, key, value, saccade.alibi(n_heads=2), block_mask)
(grad,) = torch.autograd.grad(out.sum(), value)
assert out.isfinite().all()
assert grad.isfinite().all()
assert "site-packages" in saccade.__file__, saccade.__file__
