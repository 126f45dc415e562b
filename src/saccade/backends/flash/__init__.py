"""The flash-attn libraries as backends, for the patterns that their kernels know by themselves.

They were written from the libraries' documented signatures and semantics and are tested against stand-ins
that keep to those. None of them has been run with the real packages or on a GPU yet.
"""

from saccade.backends.flash.backend import (
    FlashAttention2Backend,
    FlashAttention3Backend,
    FlashAttention4Backend,
)

__all__ = ["FlashAttention2Backend", "FlashAttention3Backend", "FlashAttention4Backend"]
