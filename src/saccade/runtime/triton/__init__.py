"""From Triton's text to kernels that run: sources on disk, compilation, launches, devices, tile choices.

Importing this imports no triton: `installed` does, when it is first needed, and `is_available` tells whether
that is any use. `compile_kernel` is the way in; `source` and `directory` keep texts, `launching` and
`interpreted` run them, `resources` tells what they use, `tile_choices` which of them was fastest.
"""

from saccade.runtime.triton.compiled import Compiled
from saccade.runtime.triton.compiling import compile_kernel
from saccade.runtime.triton.descriptors import DESCRIPTOR_ALIGNMENT, descriptor_fault, tensor_descriptor
from saccade.runtime.triton.devices import INTERPRETER, Device, current_target, describe_device, is_available
from saccade.runtime.triton.installed import is_interpreted
from saccade.runtime.triton.resources import Resources
from saccade.runtime.triton.target import Target
from saccade.runtime.triton.tile_choices import fastest, remember, remembered
from saccade.runtime.triton.timing import median_seconds

__all__ = [
    "DESCRIPTOR_ALIGNMENT",
    "INTERPRETER",
    "Compiled",
    "Device",
    "Resources",
    "Target",
    "compile_kernel",
    "current_target",
    "describe_device",
    "descriptor_fault",
    "fastest",
    "is_available",
    "is_interpreted",
    "median_seconds",
    "remember",
    "remembered",
    "tensor_descriptor",
]
