"""The call: arguments are checked, mods traced, a backend planned and run.

`call` holds the two public functions, `request` the way from arguments to a problem, `validate` and `options`
the checks, `aux` what is returned beside the output.
"""

from saccade.attention.aux import AuxOutput, AuxRequest
from saccade.attention.call import explain, flex_attention
from saccade.attention.options import FlexKernelOptions

__all__ = ["AuxOutput", "AuxRequest", "FlexKernelOptions", "explain", "flex_attention"]
