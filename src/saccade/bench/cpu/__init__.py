"""What the CPU engine is measured by: its peers, the processor's own limits, and the cases it must win.

Each file owns one idea: which cases there are, who takes part, what the processor can do, how a phase is
timed, what a fresh process says, and the run that joins them. Printing belongs to the command line.
"""
