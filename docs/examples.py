"""Docstrings say `Example:` where the reader of docstrings expects `Examples:`: an extension of griffe."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Show the section `Example:` as code, like the doctest it is."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the section while an object is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
