"""Elementary functions of vectors, written out in instructions that every target has.

No function here becomes a call of a library, and none has a case that LLVM leaves undefined. NaN gives NaN.
How accurate they are is `ULP`, which the tests hold them to.
"""

from saccade.codegen.cpu.vector_math.elementary import ELEMENTARY, ULP, power, remainder
from saccade.codegen.cpu.vector_math.exponentials import exp2_of_nonpositive

__all__ = ["ELEMENTARY", "ULP", "exp2_of_nonpositive", "power", "remainder"]
