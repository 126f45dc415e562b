"""The texts of tokens on the command line, words or a file of tokens, and the lengths they set."""

from __future__ import annotations

import json
from pathlib import Path

from saccade.errors import ArgumentError

__all__ = ["DEFAULT_LENGTH", "lengths", "read_tokens"]

DEFAULT_LENGTH = 1024
"""Queries, where neither a length nor a text is given."""


def read_tokens(text: str | None, tokens: Path | None) -> list[str] | None:
    """Return the texts that `--text` or `--tokens` gives, None where neither is given.

    Args:
        text: Words, parted by white space; `@FILE` reads them from a file.
        tokens: A file of one token a line, or of a JSON list of texts, for tokens that hold line ends.

    Raises:
        ArgumentError: Both are given, a file cannot be read, or there is no word in them.

    Example:
        >>> read_tokens("The cat sat", None)
        ['The', 'cat', 'sat']
    """
    if text is not None and tokens is not None:
        raise ArgumentError(f"expected --text or --tokens, got both ({text!r}, {tokens}); leave one out")
    if text is not None:
        found = (_read(Path(text[1:]), "--text") if text.startswith("@") else text).split()
        given = f"--text {text!r}"
    elif tokens is not None:
        found = _listed(_read(tokens, "--tokens"), tokens)
        given = f"--tokens {tokens}"
    else:
        return None
    if not found:
        raise ArgumentError(f"expected one token at least, got {given}, which holds none; write some words")
    return found


def lengths(q_len: int | None, kv_len: int | None, tokens: list[str] | None) -> tuple[int, int]:
    """Return queries and keys, as given or as many as there are tokens.

    Args:
        q_len: Queries asked for; None for as many as there are tokens, or 1024.
        kv_len: Keys asked for; None for as many as queries.
        tokens: What labels the queries, and the keys too.

    Raises:
        ArgumentError: There are not as many tokens as positions.

    Example:
        >>> lengths(None, None, ["The", "cat"]), lengths(None, None, None), lengths(4, None, None)
        ((2, 2), (1024, 1024), (4, 4))
    """
    if tokens is None:
        queries = DEFAULT_LENGTH if q_len is None else q_len
        return queries, queries if kv_len is None else kv_len
    for option, length in (("--q-len", q_len), ("--kv-len", kv_len)):
        if length is not None and length != len(tokens):
            raise ArgumentError(
                f"the text labels queries and keys alike and has {len(tokens):,} tokens, "
                f"got {option} {length}; leave {option} out, or give as many tokens"
            )
    return len(tokens), len(tokens)


def _read(path: Path, option: str) -> str:
    try:
        # Not read_text: it would take a lone carriage return for a line end, and a byte order mark for text.
        return path.read_bytes().decode().removeprefix("\ufeff")
    except OSError as fault:
        raise ArgumentError(
            f"expected a file that can be read, got {option} {path} ({fault.strerror}); check the path"
        ) from fault
    except UnicodeDecodeError as fault:
        raise ArgumentError(
            f"expected a text in UTF-8, got {option} {path} ({fault.reason} at byte {fault.start}); "
            "convert it"
        ) from fault


def _listed(text: str, path: Path) -> list[str]:
    """The tokens of a file: of a JSON list where it is one, else of its lines."""
    if not text.lstrip().startswith("["):
        return _lines(text)
    try:
        found = json.loads(text)
    except json.JSONDecodeError as fault:
        # A first token that is a bracket, as in [CLS].
        if not text.lstrip().startswith('["'):
            return _lines(text)
        raise ArgumentError(
            f"expected one token a line or a JSON list of texts, got --tokens {path}, which is no JSON "
            f"({fault}); correct it"
        ) from fault
    if not all(isinstance(token, str) for token in found):
        wrong = next(token for token in found if not isinstance(token, str))
        raise ArgumentError(
            f"expected a JSON list of texts, got --tokens {path}, which holds {wrong!r}; put it into quotes"
        )
    return [str(token) for token in found]


def _lines(text: str) -> list[str]:
    """The lines of a text. Only a line feed parts them: a token may hold any other separator."""
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
