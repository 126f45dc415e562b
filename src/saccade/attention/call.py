"""`flex_attention` and `explain`: the same arguments, computed or explained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask as TorchBlockMask

from saccade.attention.aux import AuxOutput, AuxRequest
from saccade.attention.compiled import compute_compiled
from saccade.attention.compute import compute, planned
from saccade.attention.nested import compute_nested, is_nested, packed_call
from saccade.attention.options import FlexKernelOptions
from saccade.attention.request import Arguments, read_request
from saccade.block_mask import BlockMask
from saccade.explanation import Explanation, explain_problem
from saccade.signatures import MaskMod, ScoreMod

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import AuxRequest as TorchAuxRequest

__all__ = ["explain", "flex_attention"]


@overload
def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None = ...,
    block_mask: BlockMask | TorchBlockMask | None = ...,
    scale: float | None = ...,
    enable_gqa: bool = ...,
    return_lse: Literal[False] = ...,
    kernel_options: FlexKernelOptions | Mapping[str, object] | None = ...,
    *,
    return_aux: None = ...,
    mask_mod: MaskMod | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    backend: str = ...,
) -> Tensor: ...


@overload
def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None = ...,
    block_mask: BlockMask | TorchBlockMask | None = ...,
    scale: float | None = ...,
    enable_gqa: bool = ...,
    return_lse: Literal[True] = ...,
    kernel_options: FlexKernelOptions | Mapping[str, object] | None = ...,
    *,
    return_aux: None = ...,
    mask_mod: MaskMod | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...


@overload
def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None = ...,
    block_mask: BlockMask | TorchBlockMask | None = ...,
    scale: float | None = ...,
    enable_gqa: bool = ...,
    return_lse: Literal[False] = ...,
    kernel_options: FlexKernelOptions | Mapping[str, object] | None = ...,
    *,
    return_aux: AuxRequest | TorchAuxRequest,
    mask_mod: MaskMod | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    backend: str = ...,
) -> tuple[Tensor, AuxOutput]: ...


def flex_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | TorchBlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: FlexKernelOptions | Mapping[str, object] | None = None,
    *,
    return_aux: AuxRequest | TorchAuxRequest | None = None,
    mask_mod: MaskMod | None = None,
    sinks: Tensor | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, AuxOutput]:
    """Compute attention whose scores and mask are Python functions.

    In order: `score = q·k * scale`, then score_mod, then the mask hides pairs, a sink joins the denominator,
    softmax, dropout, times the values. Names, order and meaning are those of
    `torch.nn.attention.flex_attention.flex_attention`, with more after the star. The functions are read anew
    at every call, so what they read from their surroundings may change. Scores and softmax are float32
    (float64 for float64 inputs). A query that sees no key gets output 0 and gradients 0, never NaN. What a
    function computes for a hidden pair has no say. Under autocast, query, key and value are cast as in torch.

    Args:
        query: `[B, Hq, Q, D]`, float16, bfloat16, float32 or float64. Or nested `[B, Hq, j, D]` of layout
            jagged, sequences of unequal lengths, as key and value then are too: each sequence sees its own
            keys alone, and mods get the number of the sequence as b and positions within it.
        key: `[B, Hkv, K, D]` of the same dtype; its batch may be 1, to serve every batch.
        value: `[B, Hkv, K, Dv]`, likewise; Dv may differ from D.
        score_mod: A function of `(score, b, h, q_idx, kv_idx)` that returns the new score, or a `Program` of
            one. Tensors that it reads get gradients, 0-d ones too; those of cpu are the same to the bit from
            run to run, for any number of threads. None: unchanged scores.
        block_mask: A mask from `create_block_mask`, or torch's own BlockMask. None: nothing is hidden. For
            nested tensors it is of packed positions, as `saccade.jagged.create_nested_block_mask` makes it.
        scale: What q·k is multiplied by. None: 1/√D.
        enable_gqa: Whether Hq may be a multiple of Hkv: query head h reads key head `h // (Hq / Hkv)`.
        return_lse: Whether to return lse beside the output; the older form of
            `return_aux=AuxRequest(lse=True)`.
        kernel_options: torch's options by name, and more: see `FlexKernelOptions`. Tile sizes are hints,
            BACKEND chooses a backend, USE_TMA, SPLIT_KV and max_autotune are for triton; others only reach
            torch. torch.compile's operator carries the backend alone: under it, tiles and max_autotune are
            left to the engine.
        return_aux: Which further results to return: an `AuxRequest`, ours or torch's.
        mask_mod: A function of `(b, h, q_idx, kv_idx)` that is True where the query may see the key. With a
            block_mask, both must hold. For repeated use a block_mask is faster, as it is analysed once; for
            nested tensors a mask_mod is too, once while their offsets live and it says the same. A mask reads
            no tensor that requires a gradient, for there is none through True and False.
        sinks: `[Hq]`, floating: the score of one more key a head, which has no value (attention sinks). None:
            none.
        dropout_p: The probability of dropping a weight, in [0, 1]. Drawn from torch's generator, so
            `torch.manual_seed` repeats it; always active when above 0, so pass 0.0 in evaluation.
        backend: Who computes it: "auto", or one of "cpu", "triton", "sdpa", "flex_attention", "eager",
            "flash_attention_2", "flash_attention_3", "flash_attention_4", which runs or raises. On a CPU
            "auto" takes cpu, gradients included, and for what it has not (the weights, forward-mode
            derivatives) sdpa where it is exact, eager for small problems, and torch's compiled flex_attention
            beyond; on other devices sdpa, flash_attention_4, 3 and 2, triton, flex_attention, and eager for
            small problems. See `explain`. Where the processor multiplies pairs of bfloat16 (AVX512-BF16), cpu
            takes subnormal bfloat16 numbers for 0, as it does.

    Returns:
        The output `[B, Hq, Q, Dv]` of the query's dtype, its dimensions ordered in memory like the query's.
        With `return_lse`, a pair of it and lse `[B, Hq, Q]`; with `return_aux`, of it and an `AuxOutput`.
        Results are nested where the query is, with its offsets: `[B, Hq, j, Dv]` and `[B, Hq, j]`.

    Raises:
        ArgumentTypeError: An argument is the wrong kind of object, or some of the tensors are nested and some
            are not.
        ShapeError: Shapes do not fit each other, or the block mask.
        DTypeError: Dtypes differ or are not floating.
        ArgumentError: A device, scale, dropout_p, backend or kernel option cannot be used, return_lse and
            return_aux are both given, a mask reads a tensor that requires a gradient, or a block mask lets
            two sequences of nested tensors see each other.
        MaskAxisError: The block mask was made for another number of batches or heads.
        OperandError: The cpu backend finds a tensor whose storage was freed or resized.
        StaleMaskError: A tensor the block mask was made from has changed.
        UnsupportedError: A tensor is nested with another layout than jagged, or nested ones are asked for
            weights, or their offsets hold no numbers as under an exporter.
        TraceError: A mod cannot be read as a program.
        BackendError: No backend, or not the one named, takes the call; every reason is shown.
        IndexOutOfRangeError: A mod reads a tensor out of range, where that decides a mask or a visible score.
        DivisionByZeroError: It divides by integer zero likewise.

    Example:
        >>> import torch
        >>> from saccade.masks import causal
        >>> query, key, value = torch.randn(3, 1, 2, 6, 8)
        >>> def closer(score, b, h, q_idx, kv_idx):
        ...     return score - 0.5 * (q_idx - kv_idx)
        >>> wanted = AuxRequest(weights=True)
        >>> out, aux = flex_attention(query, key, value, closer, mask_mod=causal, return_aux=wanted)
        >>> out.shape
        torch.Size([1, 2, 6, 8])
        >>> aux.weights[0, 0, 0]
        tensor([1., 0., 0., 0., 0., 0.])

    The method is that of "Flex Attention: A Programming Model for Generating Optimized Attention Kernels"
    (arXiv 2412.05496); sinks are those of arXiv 2309.17453, with a learned score and no value.
    """
    given = Arguments(
        query,
        key,
        value,
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=enable_gqa,
        return_lse=return_lse,
        kernel_options=kernel_options,
        return_aux=return_aux,
        mask_mod=mask_mod,
        sinks=sinks,
        dropout_p=dropout_p,
        backend=backend,
    )
    if is_nested(query, key, value):
        results = compute_nested(given)
    elif torch.compiler.is_dynamo_compiling():
        results = compute_compiled(given)
    else:
        request = read_request(given)
        results = compute(request, planned(request))
    if return_aux is not None:
        return results.out, AuxOutput(results.lse, results.max_scores, results.weights)
    if return_lse:
        assert results.lse is not None, "a kernel returns what it was asked for"
        return results.out, results.lse
    return results.out


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | TorchBlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: FlexKernelOptions | Mapping[str, object] | None = None,
    *,
    return_aux: AuxRequest | TorchAuxRequest | None = None,
    mask_mod: MaskMod | None = None,
    sinks: Tensor | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Explanation:
    """Say what `flex_attention` would do with the same arguments, without doing it.

    Args:
        query: As for `flex_attention`, and so are all that follow.
        key: See there.
        value: See there.
        score_mod: See there.
        block_mask: See there.
        scale: See there.
        enable_gqa: See there.
        return_lse: See there.
        kernel_options: See there.
        return_aux: See there.
        mask_mod: See there.
        sinks: See there.
        dropout_p: See there.
        backend: See there.

    Returns:
        The programs, the block map, the work it saves, and why each backend would or would not be taken. A
        call that every backend refuses is explained too.

    Raises:
        SaccadeError: The arguments cannot be used, as for `flex_attention`; refusals of backends do not
            raise.

    Example:
        >>> import torch
        >>> from saccade.masks import causal
        >>> query = torch.empty(1, 2, 64, 16)
        >>> print(explain(query, query, query, mask_mod=causal).backend)
        cpu
    """
    given = Arguments(
        query,
        key,
        value,
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=enable_gqa,
        return_lse=return_lse,
        kernel_options=kernel_options,
        return_aux=return_aux,
        mask_mod=mask_mod,
        sinks=sinks,
        dropout_p=dropout_p,
        backend=backend,
    )
    request = read_request(packed_call(given).packed if is_nested(query, key, value) else given)
    return explain_problem(request.problem, request.operands, request.backend, request.schedule)
