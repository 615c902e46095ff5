"""EXIF with two fields: AUTOMATIC1111's text as its UserComment, our record as its MakerNote.

EXIF 2.32 (CIPA DC-008): a TIFF header; a first directory (IFD), whose only entry points to a second, the Exif IFD,
which has the fields. An entry is a tag, a type, a count and a value of 4 bytes, or the offset of a longer one.
"""

from __future__ import annotations

import struct

HEADER = b"Exif\0\0"
_EXIF_IFD, _MAKER_NOTE, _USER_COMMENT = 0x8769, 0x927C, 0x9286
_ASCII, _LONG, _UNDEFINED = 2, 4, 7
_MOST_TEXTS = 32
_COMMENT_CODE, _NOTE_CODE = b"UNICODE\0", b"sdxl\0"
_FIELDS = 8 + 2 + 12 + 4  # the offset of the Exif IFD
_DATA = _FIELDS + 2 + 2 * 12 + 4  # the offset of the values


def pack_exif(comment: str, note: str) -> bytes:
    """EXIF with AUTOMATIC1111's text, in UTF-16 as AUTOMATIC1111 writes it, and our record, in UTF-8."""
    notes = _NOTE_CODE + note.encode()
    notes += b"\0" * (len(notes) % 2)  # values start at even offsets
    comments = _COMMENT_CODE + comment.encode("utf-16-be")
    first = struct.pack(">2sHLHHHLLL", b"MM", 42, 8, 1, _EXIF_IFD, _LONG, 1, _FIELDS, 0)
    entries = [
        struct.pack(">HHLL", _MAKER_NOTE, _UNDEFINED, len(notes), _DATA),
        struct.pack(">HHLL", _USER_COMMENT, _UNDEFINED, len(comments), _DATA + len(notes)),
    ]
    return HEADER + first + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4) + notes + comments


def unpack_note(exif: bytes) -> str | None:
    """Our record in the EXIF of an image, if it has one. Raises `ValueError` where it is damaged."""
    value = _undefined(exif, _MAKER_NOTE)
    if value is None or not value.startswith(_NOTE_CODE):
        return None
    return value.removeprefix(_NOTE_CODE).rstrip(b"\0").decode()


def unpack_comment(exif: bytes) -> str | None:
    """The UserComment in the EXIF of an image, if it has one. Raises `ValueError` where it is damaged."""
    value = _undefined(exif, _USER_COMMENT)
    if value is None:
        return None
    code, text = value[:8], value[8:]
    if code == _COMMENT_CODE:
        # writers differ in the order of bytes, whatever the order of the rest; Latin letters show which it is
        is_little = text[1::2].count(0) > text[0::2].count(0)
        return text.decode("utf-16-le" if is_little else "utf-16-be", errors="replace").rstrip("\0")
    if code in (b"ASCII\0\0\0", bytes(8)):
        return text.decode(errors="replace").rstrip("\0")
    return value.decode(errors="replace").rstrip("\0")


def unpack_texts(exif: bytes) -> list[str]:
    """The texts of the first directory, among which ComfyUI has its graphs. Raises `ValueError`."""
    data, order, start = _open(exif)
    if not order:
        return []
    try:
        (entries,) = struct.unpack_from(f"{order}H", data, start)
        found = [struct.unpack_from(f"{order}HHLL", data, start + 2 + 12 * n) for n in range(entries)]
    except struct.error as error:
        raise ValueError("its EXIF ends too early") from error
    values = [data[offset : offset + count] for _, kind, count, offset in found if kind == _ASCII and count > 4]
    return [value.rstrip(b"\0").decode(errors="replace") for value in values[:_MOST_TEXTS]]


def _open(exif: bytes) -> tuple[bytes, str, int]:
    """The data from the TIFF header on, the order of bytes ("" for other data), and where the first directory is."""
    data = exif.removeprefix(HEADER)
    order = {b"MM": ">", b"II": "<"}.get(data[:2], "")
    if not order:
        return data, "", 0
    try:
        (start,) = struct.unpack_from(f"{order}L", data, 4)
    except struct.error as error:
        raise ValueError("its EXIF ends too early") from error
    return data, order, start


def _undefined(exif: bytes, tag: int) -> bytes | None:
    """The value of a tag in the Exif IFD."""
    data, order, start = _open(exif)
    if not order:
        return None
    try:
        pointer = _entry(data, order, start, _EXIF_IFD)
        found = pointer and _entry(data, order, pointer[1], tag)
    except struct.error as error:
        raise ValueError("its EXIF ends too early") from error
    if not found:
        return None
    count, offset = found
    return data[offset : offset + count]


def _entry(data: bytes, order: str, start: int, tag: int) -> tuple[int, int] | None:
    """The count and the value of a tag in the directory at `start`."""
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    for n in range(entries):
        found, _, count, value = struct.unpack_from(f"{order}HHLL", data, start + 2 + 12 * n)
        if found == tag:
            return count, value
    return None
