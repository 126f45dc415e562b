"""From source text to work done: the compiler, compiled kernels, threads, memory, and what the host is.

Nothing happens at import; llvmlite is loaded with `runtime.llvm`, by the engine that needs it, and triton by
`runtime.triton` when a kernel is first asked for.
"""
