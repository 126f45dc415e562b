"""From a Python function to a program: what a mod does to traced values is recorded as expressions.

Owns the traced value (`proxy`), what its operations mean (`rules` and the files it names), what a trace
collects (`recorder`) and where faults lie (`origin`). It does not simplify, analyse or evaluate; nothing
outlives a trace but the program.
"""

from saccade.tracing.registration import register_rule
from saccade.tracing.trace import trace

__all__ = ["register_rule", "trace"]
