"""Text files as editors of all systems write them: UTF-8 with or without a byte order mark, UTF-16, XML as declared."""

from __future__ import annotations

import codecs
import errno
import re
import xml.etree.ElementTree as ET  # expat resolves no external entities and stops at exponential ones
from pathlib import Path

from pix2seq.errors import UserError
from pix2seq.runtime.files import first_bytes, require_regular

DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["'][^>]*\?>""")
HEADER_BYTES = 200  # more than any XML declaration has
SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030"}  # files that name the smaller often have characters of the larger
XML_BEGINS = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))  # UTF-16 without a mark
MOST_BYTES = 2**33  # of a text: the largest data sets' annotations have 6e9
PIECE_BYTES = 2**24  # that are read at a time
HOLE = bytes(8)  # no text has it, of two or four bytes a character either
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path) -> str:
    """The text of a regular file as `decode_text` reads it. Raises OSError if it cannot be read.

    A file with holes, or one that a machine died over, is of zeros in part, and may take no room on the disk for many
    gigabytes of them: the first ones end the reading with a UserError.
    """
    if require_regular(path) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES:,} bytes", str(path))
    content = bytearray()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            if HOLE in piece:
                raise UserError(f"{path} holds zeros in place of text: it was not written to its end; get it again")
            content += piece
    return decode_text(content, path)


def read_start(path: Path, most: int) -> str:
    """The text of the first `most` bytes of a file, to tell what it is; see `first_bytes`."""
    head = first_bytes(path, most)
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), "utf-8")
    return head.decode(encoding, "replace").lstrip()


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can hold a text: Python has halves of characters in the names of files that are not in UTF-8."""
    return text.encode(errors="replace").decode() == text


def decode_text(content: bytes | bytearray, path: Path) -> str:
    """The text of the file `path` with this content in UTF-8, or in UTF-16 with its byte order mark; raise UserError
    for another encoding."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise UserError(
            f"{path} is not text in {name} ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def parse_xml(content: bytes) -> ET.Element:
    """The root of an XML file, in whatever encoding it declares.

    Raises ET.ParseError if it is not XML, UnicodeError if it is not in its encoding, which the error names.
    """
    declared = DECLARED.search(content[:HEADER_BYTES])
    encoding = declared[1].decode("ascii").lower() if declared else "utf-8"
    encoding = next((name for mark, name in (*MARKS, *XML_BEGINS) if content.startswith(mark)), encoding)
    try:
        text = content.decode(SUPERSETS.get(encoding, encoding))
    except (UnicodeDecodeError, LookupError) as error:
        raise UnicodeError(encoding) from error
    return ET.fromstring(text.encode(), ET.XMLParser(encoding="utf-8"))  # whatever it declares
