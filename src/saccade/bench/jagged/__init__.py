"""Jagged batches on a CPU: sequences of unequal lengths beside what torch offers for them.

Each file owns one idea: which batches there are, which cases, who takes part, how a case is checked and
timed, and the run that joins them. Passes and outcomes are those of `bench.train` and `bench.cpu`.
"""
