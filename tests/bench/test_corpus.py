"""Real text from the standard library: packed to the length, the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saccade.bench.corpus import embed, pack_library_sources
from saccade.errors import UnsupportedError


def test_the_text_is_the_source_files_byte_by_byte() -> None:
    text = pack_library_sources(8192)
    again = pack_library_sources(8192)
    assert text.names == again.names
    assert torch.equal(text.tokens, again.tokens)
    assert text.tokens.dtype is torch.uint8
    assert len(text.tokens) == sum(text.lengths) == 8192
    assert len(text.lengths) == len(text.names) >= 4
    root = Path(pytest.__file__).parent  # any directory; the library's own is next
    assert root.is_dir()


def test_documents_are_whole_but_for_the_last(tmp_path: Path) -> None:
    (tmp_path / "package" / "test").mkdir(parents=True)
    content = {"a.py": b"a" * 100, "package/b.py": b"b" * 200, "c.py": b"", "long.py": b"l" * 9999}
    for name, data in {**content, "package/test/skipped.py": b"s" * 50}.items():
        (tmp_path / name).write_bytes(data)
    text = pack_library_sources(250, tmp_path)
    assert set(text.names) == {"a.py", "package/b.py"}
    start = 0
    for name, length in zip(text.names, text.lengths, strict=True):
        assert bytes(text.tokens[start : start + length].tolist()) == content[name][:length]
        start += length


def test_too_little_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"pass\n")
    with pytest.raises(
        UnsupportedError, match=r"expected 1000 bytes of Python source under .*, found 5; use a Python"
    ):
        pack_library_sources(1000, tmp_path)


def test_embedded_tokens_depend_on_byte_and_position() -> None:
    tokens = torch.tensor([65, 66, 65], dtype=torch.uint8)
    query, key, value = embed(tokens, heads=2, head_dim=8)
    assert query.shape == key.shape == value.shape == (1, 2, 3, 8)
    assert torch.equal(embed(tokens, heads=2, head_dim=8)[1], key)
    assert not torch.allclose(key[..., 0, :], key[..., 2, :])
    shorter = embed(tokens[:2], heads=2, head_dim=8)[1]
    torch.testing.assert_close(shorter, key[:, :, :2])
    assert not torch.allclose(query, key)
