"""An engine held against the oracle: the output, lse and every gradient of one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import low_precision
import oracle
from saccade import AuxRequest, flex_attention
from saccade.signatures import MaskMod, ScoreMod

ENGINES = ["eager", "cpu"]


def draw(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 17) -> list[Tensor]:
    """Leaves of normal numbers that want gradients."""
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [each.to(dtype).requires_grad_() for each in drawn]


def assert_equal_to_dense(
    tensors: Sequence[Tensor],  # query, key, value: leaves
    engine: str,
    *,
    mask: MaskMod | None = None,  # what is meant: the oracle asks it, and the engine too
    score: ScoreMod | None = None,
    learned: Sequence[Tensor] = (),
    **given: object,  # other arguments for the engine, `score_mod` and `mask_mod` among them
) -> None:
    """Hold a call and its gradients against float64 attention over the whole matrix.

    Errors may be a small multiple of those of another computation in the same precision.
    """
    dtype, leaves = tensors[0].dtype, [*tensors, *learned]
    reference = oracle.attention(*tensors, mask=mask, score=score)
    usual = low_precision.attention(*tensors, mask=mask, score=score)
    arguments = {"mask_mod": mask, "score_mod": score, **given}
    out, aux = flex_attention(
        *tensors, enable_gqa=True, return_aux=AuxRequest(lse=True), backend=engine, **arguments
    )  # type: ignore[call-overload]
    assert torch.equal(aux.lse == -torch.inf, reference.lse == -torch.inf)
    results = [(out, aux.lse), usual, (reference.out, reference.lse)]
    finite = [[out.detach(), torch.where(lse == -torch.inf, 0.0, lse).detach()] for out, lse in results]
    low_precision.assert_as_good(*finite, digits=4)
    gradients = [low_precision.gradients(each, leaves, dtype) for each in results]
    low_precision.assert_as_good(*gradients)
