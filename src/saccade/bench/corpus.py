"""Real text for measurements: the source files of the running Python's standard library, byte by byte.

Every Python brings it, so the packed documents of a measurement have the lengths and the bytes of real files
without a download. Owns the choice of files, the packing, and the queries, keys and values made of the bytes.
"""

from __future__ import annotations

import math
import os
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saccade.errors import UnsupportedError

__all__ = ["PackedText", "embed", "pack_library_sources"]

_SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})
_SEED = 20_261_101


@dataclass(frozen=True, eq=False)
class PackedText:
    """Documents laid end to end, one token a byte.

    Attributes:
        tokens: uint8 `[S]`: the bytes.
        lengths: Bytes of each document, in order; their sum is S.
        names: The file each document is, relative to the library's directory.
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    names: tuple[str, ...]


def pack_library_sources(length: int, directory: Path | None = None) -> PackedText:
    """Pack source files into a sequence, one document a file.

    Files are taken in a shuffled order that is the same in every run; files longer than a quarter of the
    sequence are left out, so that it holds several, and the last document is cut to fit.

    Args:
        length: Tokens in all, S.
        directory: Where to look for `*.py`. Default: the running Python's standard library.

    Returns:
        The packed text, of exactly `length` tokens.

    Raises:
        UnsupportedError: The directory holds too little text, as when the library is inside a zip file.
    """
    root = Path(sysconfig.get_path("stdlib")) if directory is None else directory
    paths = sorted(_sources(root))
    random.Random(_SEED).shuffle(paths)
    content, lengths, names = bytearray(), [], []
    for path in paths:
        # Hardly any file is shorter than 256 bytes, so short sequences hold fewer documents.
        if not 0 < path.stat().st_size <= max(length // 4, 256):
            continue
        document = path.read_bytes()[: length - len(content)]
        content += document
        lengths.append(len(document))
        names.append(path.relative_to(root).as_posix())
        if len(content) == length:
            return PackedText(torch.frombuffer(content, dtype=torch.uint8), tuple(lengths), tuple(names))
    raise UnsupportedError(
        f"expected {length} bytes of Python source under {root}, found {len(content)}; use a Python whose "
        "standard library is installed as files"
    )


def _sources(root: Path) -> Iterator[Path]:
    """Every `*.py` below a directory, but for tests and installed packages."""
    for directory, below, files in os.walk(root):
        below[:] = set(below) - _SKIPPED
        yield from (Path(directory, name) for name in files if name.endswith(".py"))


def embed(tokens: Tensor, *, heads: int, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make queries, keys and values of tokens, as a model's first layer would.

    A fixed table embeds each byte, sinusoids of its position are added (arXiv 1706.03762), and three fixed
    matrices project the sum.

    Args:
        tokens: uint8 `[S]`.
        heads: H.
        head_dim: D.

    Returns:
        Query, key and value, each float32 `[1, H, S, D]`, the same for the same tokens in every run.
    """
    generator = torch.Generator().manual_seed(_SEED)
    width = heads * head_dim
    table = torch.randn(256, width, generator=generator)
    position = torch.arange(len(tokens))[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    hidden = table[tokens.long()] + torch.cat([position.sin(), position.cos()], dim=1)[:, :width]
    projections = torch.randn(3, width, width, generator=generator) / math.sqrt(width)
    query, key, value = (
        (hidden @ projection).view(1, len(tokens), heads, head_dim).transpose(1, 2)
        for projection in projections
    )
    return query, key, value
