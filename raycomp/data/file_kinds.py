"""Files that are not of the kind that their name says, recognised by their first bytes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

HEAD_BYTES = 1024
"""Number of bytes from which the kind of a file is recognised."""

_SAVE = "Save the table as CSV in UTF-8"

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "it is compressed with gzip. Add .gz to its name"),
    (b"BZh", "it is compressed with bzip2. Unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", "it is compressed with xz. Unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd. Unpack it, or compress it with gzip"),
    (b"PK\x03\x04", f"it is a ZIP archive or a workbook of Excel. Unpack it. {_SAVE}"),
    (b"\xd0\xcf\x11\xe0", f"it is a workbook of Excel. {_SAVE}"),
    (b"SQLite format 3", f"it is a database of SQLite. {_SAVE}"),
    (b"PAR1", "it is a Parquet file. Its name must end in .parquet"),
    (b"ARROW1", "it is an Arrow file. Write it as Parquet"),
    (b"\x80\x04", "it is a pickle of Python, which can run code. Write the data as Parquet"),
    (b"\x80\x05", "it is a pickle of Python, which can run code. Write the data as Parquet"),
    # The marks of UTF-32 begin with those of UTF-16.
    (codecs.BOM_UTF32_LE, "it is UTF-32. Save it as UTF-8"),
    (codecs.BOM_UTF32_BE, "it is UTF-32. Save it as UTF-8"),
    (codecs.BOM_UTF16_LE, 'it is UTF-16, which some programs call "Unicode". Save it as UTF-8'),
    (codecs.BOM_UTF16_BE, 'it is UTF-16, which some programs call "Unicode". Save it as UTF-8'),
    (
        b"version https://git-lfs",
        "it is a pointer of Git LFS, and the data are elsewhere. Run git lfs pull in its repository",
    ),
    (b"<!doctype", "it is a page of HTML, perhaps an error page. Download the file again"),
    (b"<html", "it is a page of HTML, perhaps an error page. Download the file again"),
    (b"sep=", "its first line is for Excel only (sep=). Remove this line"),
)
"""First bytes in lower case or as they are -> what the file is and what to do."""

# Every second byte of English text in UTF-16 is 0.
_MIN_ZERO_SHARE = 0.4


def describe_other_kind(head: bytes) -> str:
    """Return what a file is that cannot be a text file of UTF-8, and what to do; empty if it can be one.

    Args:
        head: The first `HEAD_BYTES` bytes of the file.

    >>> describe_other_kind(b"PK\\x03\\x04 and so on")
    'it is a ZIP archive or a workbook of Excel. Unpack it. Save the table as CSV in UTF-8'
    >>> describe_other_kind(b"text,label")
    ''
    """
    text = head.removeprefix(codecs.BOM_UTF8)
    for signature, description in _SIGNATURES:
        if head.startswith(signature) or text.lower().startswith(signature):
            return description

    zeros = max(head[0::2].count(0), head[1::2].count(0))
    if len(head) > 1 and zeros >= _MIN_ZERO_SHARE * len(head):
        return "every second byte is 0, as in UTF-16. Save it as UTF-8"
    return ""


def refuse_nul(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines, which must not have NUL characters: they are damage, or text in another encoding.

    Raises:
        ValueError: A line has one.
    """
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise ValueError(
                f"line {number} contains NUL characters, as in a damaged file or UTF-16. Write the file "
                "again, as UTF-8"
            )
        yield line
