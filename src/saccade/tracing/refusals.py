"""Operations that no mod can use, each with what to do instead.

Names are those of `torch`, `torch.Tensor` and `torch.nn.functional`; any other operation without a rule gets
the general advice. Names that end in an underscore are writes.
"""

from __future__ import annotations

__all__ = ["advice_for"]

_DATA_DEPENDENT = "the shape of its result depends on data; write torch.where(condition, a, b)"
_RANDOM = "a mod must give one answer for a pair; draw the numbers outside the mod into a tensor and index it"
_ORDER = "it needs a whole row of values at once; compute it outside the mod into a tensor and index it"
_MATRIX = "multiply the matrices outside the mod, or write (a * b).sum(-1) for two vectors"
_WRITE = "a mod cannot write to a tensor; build the result with torch.where"
_JOIN = "combine the values directly, as in torch.maximum(a, b) or a + b"

_ADVICE = {
    **dict.fromkeys(
        ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"), _DATA_DEPENDENT
    ),
    **dict.fromkeys(
        (
            "rand_like",
            "randn_like",
            "randint_like",
            "bernoulli",
            "multinomial",
            "poisson",
            "normal",
            "dropout",
            "alpha_dropout",
            "feature_dropout",
            "native_dropout",
        ),
        _RANDOM,
    ),
    **dict.fromkeys(
        (
            "sort",
            "argsort",
            "msort",
            "topk",
            "kthvalue",
            "median",
            "nanmedian",
            "quantile",
            "mode",
            "cumsum",
            "cumprod",
            "cummax",
            "cummin",
            "logcumsumexp",
            "softmax",
            "log_softmax",
            "logsumexp",
            "argmax",
            "argmin",
            "histc",
            "aminmax",
        ),
        _ORDER,
    ),
    **dict.fromkeys(
        ("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "einsum", "tensordot", "linear", "outer", "kron"),
        _MATRIX,
    ),
    **dict.fromkeys(
        (
            "__setitem__",
            "index_fill",
            "scatter",
            "scatter_add",
            "index_add",
            "index_copy",
            "index_put",
            "copyto",
        ),
        _WRITE,
    ),
    **dict.fromkeys(("stack", "cat", "concat", "concatenate", "hstack", "vstack"), _JOIN),
    "vmap": "a mod already stands for every pair; write it for one",
    "gather": "index the tensor axis by axis, as in table[b, index]",
    "take_along_dim": "index the tensor axis by axis, as in table[b, index]",
    "empty_like": "its content is undefined; write zeros_like",
    "prod": "write the product of a few factors out, or compute it outside the mod into a tensor",
    "norm": "write (x * x).sum(-1).sqrt()",
    "backward": "run the attention, and call backward() on its output",
    "requires_grad_": "traced values always carry derivatives; leave the call out",
}


def advice_for(name: str) -> str | None:
    """What to do instead of the operation called `name`; None for one that is merely unknown."""
    advice = _ADVICE.get(name)
    if advice is None and name.endswith("_") and not name.endswith("__"):
        return _WRITE
    return advice
