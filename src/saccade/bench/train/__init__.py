"""Training on a CPU: gradients of the CPU engine beside those of torch's SDPA.

Each file owns one idea: which patterns and cases there are, who takes part, how a case is checked and timed,
what dropout and tiny calls cost, what a very long step needs, and the run that joins them. What it shares
with the forward measurements, the processor's limits and the form of outcomes, it takes from `bench.cpu`.
"""
