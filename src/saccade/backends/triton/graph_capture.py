"""Graph capture: what a call does on the host, and copies from it, must have been done before.

A replay runs the kernels again with the numbers and addresses that they were launched with. So what a call
reads from the host anew each time, and memory that only the call holds, must not be captured at all.
"""

from __future__ import annotations

import torch

from saccade.errors import UnsupportedError

__all__ = ["require_no_capture"]

_BEFORE = (
    "make the mask with create_block_mask before, pass it as block_mask=, and call once with the same "
    "arguments before the capture"
)


def require_no_capture(device: torch.device, lacking: str, advice: str = _BEFORE) -> None:
    """Check that no graph is captured here and now.

    Args:
        device: Where the call runs.
        lacking: What the call lacks, and would have to make on the host.
        advice: What to do.

    Raises:
        UnsupportedError: A graph is captured on the device's current stream.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise UnsupportedError(
            "expected all that a call needs from the host to be there when a graph is captured, and "
            f"{lacking}; {advice}"
        )
