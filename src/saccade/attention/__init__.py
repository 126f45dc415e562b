"""The call: arguments are checked, mods traced, a backend planned and run.

`call` holds `flex_attention` and `explain`, `request` the way from arguments to a problem, `validate` and
`options` the checks, `aux` what is returned beside the output. `sdpa` reads the arguments of torch's
`scaled_dot_product_attention` as those of `flex_attention`, `leading` its broadcasting, and `replacement`
answers the calls that models make of torch's own.
"""

from saccade.attention.aux import AuxOutput, AuxRequest
from saccade.attention.call import explain, flex_attention
from saccade.attention.options import FlexKernelOptions
from saccade.attention.replacement import Replaced, replace_sdpa
from saccade.attention.sdpa import scaled_dot_product_attention

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "FlexKernelOptions",
    "Replaced",
    "explain",
    "flex_attention",
    "replace_sdpa",
    "scaled_dot_product_attention",
]
