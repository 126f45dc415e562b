"""Programs and problems to source text: what an engine compiles.

Nothing here runs, compiles or looks at the machine; equal input gives equal text.
"""
