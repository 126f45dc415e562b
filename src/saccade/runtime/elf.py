"""The symbol table of an ELF object, as far as one question needs it: what does the object import?

A reader of 64-bit little-endian relocatable files, which is what LLVM writes for Linux on every processor
that kernels are compiled for. Layout: System V ABI, "Object Files".
"""

from __future__ import annotations

import struct

__all__ = ["is_elf", "undefined_symbols"]

_MAGIC = b"\x7fELF\x02\x01"  # 64-bit, little-endian
_SECTION_TABLE = struct.Struct("<40xQ10xHHH")  # e_shoff, e_shentsize, e_shnum, e_shstrndx
_SECTION = struct.Struct("<4xI16xQQI20x")  # sh_type, sh_offset, sh_size, sh_link
_SYMBOL = struct.Struct("<I2xH16x")  # st_name, st_shndx
_SYMBOL_TABLE = 2  # sh_type
_UNDEFINED = 0  # st_shndx


def is_elf(data: bytes) -> bool:
    """Tell whether some bytes begin as the objects that `undefined_symbols` reads."""
    return data.startswith(_MAGIC)


def undefined_symbols(data: bytes) -> set[str]:
    """Return the names an object expects others to define.

    Args:
        data: A relocatable object, as `emit_object` gives it for a Linux target.
    """
    assert is_elf(data), "expected a 64-bit little-endian ELF object"
    table, entry_size, count, _ = _SECTION_TABLE.unpack_from(data)
    sections = [_SECTION.unpack_from(data, table + place * entry_size) for place in range(count)]
    found: set[str] = set()
    for kind, start, size, strings in sections:
        if kind != _SYMBOL_TABLE:
            continue
        names_start = sections[strings][1]
        for name, section in _SYMBOL.iter_unpack(data[start : start + size]):
            if section == _UNDEFINED and name != 0:  # the first symbol is a nameless filler
                place = names_start + name
                found.add(data[place : data.index(b"\0", place)].decode())
    return found
