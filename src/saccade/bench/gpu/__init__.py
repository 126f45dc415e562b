"""What the GPU engine is measured by: its peers, the card's own two ceilings, and the patterns of the field.

Each file owns one idea: the clock, the ceilings, which cases there are and in what order, what a case
computes and how little it could cost, who takes part, whether results are right, how a case is timed, and the
run that joins them under a budget of time. All but the clock runs on any device. Printing belongs to the
command line.
"""
