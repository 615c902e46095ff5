"""EXIF with two fields: AUTOMATIC1111's text as its UserComment, our record as its MakerNote.

EXIF 2.32 (CIPA DC-008): a TIFF header; a first directory (IFD), whose only entry points to a second, the Exif IFD,
which has the fields. An entry is a tag, a type, a count and a value of 4 bytes, or the offset of a longer one.
"""

from __future__ import annotations

import struct

HEADER = b"Exif\0\0"
_EXIF_IFD, _MAKER_NOTE, _USER_COMMENT = 0x8769, 0x927C, 0x9286
_LONG, _UNDEFINED = 4, 7
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
    data = exif.removeprefix(HEADER)
    order = {b"MM": ">", b"II": "<"}.get(data[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}L", data, 4)
        pointer = _entry(data, order, start, _EXIF_IFD)
        note = pointer and _entry(data, order, pointer[1], _MAKER_NOTE)
    except struct.error as error:
        raise ValueError("its EXIF ends too early") from error
    if not note:
        return None
    count, offset = note
    value = data[offset : offset + count]
    return value.removeprefix(_NOTE_CODE).rstrip(b"\0").decode() if value.startswith(_NOTE_CODE) else None


def _entry(data: bytes, order: str, start: int, tag: int) -> tuple[int, int] | None:
    """The count and the value of a tag in the directory at `start`."""
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    for n in range(entries):
        found, _, count, value = struct.unpack_from(f"{order}HHLL", data, start + 2 + 12 * n)
        if found == tag:
            return count, value
    return None
