"""The bytes of a file → its text in pieces. Errors name the position of bytes that are not UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from smol_hf.data.conversation import SampleError
from smol_hf.data.sources.files import open_file
from smol_hf.text.documents.document import CHUNK

NEWLINE = b"\n"
HEAD = 4096  # bytes from which the kind of a file is known
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),  # before UTF-16, whose mark begins theirs
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# First bytes of files of these kinds. In a text they are followed by text; in such files they are not.
SIGNATURES = {
    b"\x1f\x8b": "a gzip archive", b"PK\x03\x04": "a zip archive (or .docx, .xlsx, .epub, .pt)",
    b"BZh": "a bzip2 archive", b"\xfd7zXZ": "an xz archive", b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a RAR archive", b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"RIFF": "a RIFF file (WebP, WAV, AVI)",
    b"PAR1": "a parquet file: give it the ending .parquet", b"ARROW1": "an Arrow file", b"\x7fELF": "an ELF program",
    b"MZ": "a Windows program", b"SQLite format 3": "an SQLite database", b"\x93NUMPY": "a NumPy array",
    b"%PDF-": "a PDF", b"\xd0\xcf\x11\xe0": "an old Office document", b"GGUF": "a GGUF model",
}  # fmt: skip


def text_of(url: str, where: str) -> Iterator[str]:
    """Yield the text of a UTF-8 file in pieces of at most `CHUNK` characters, without a byte order mark.

    Raises:
        SampleError: for a binary file or another encoding, with the position.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, line = 0, 1  # of the first byte that is not decoded yet
    with open_file(url, ahead=True) as file:
        while block := file.read(CHUNK):
            if position == 0:
                refuse_binary(block[:HEAD], where)
                position = len(codecs.BOM_UTF8) if block.startswith(codecs.BOM_UTF8) else 0
                block = block[position:]
            waiting = decoder.getstate()[0] + block
            if (at := waiting.find(b"\0")) >= 0:
                place = f"at byte {position + at} (line {line + waiting.count(NEWLINE, 0, at)})"
                raise SampleError(where, f"is binary or UTF-16: it has a NUL byte {place}, which no text has")
            text = decoded(decoder, block, where, position, line)
            if text:
                yield text
            left = len(decoder.getstate()[0])
            position += len(waiting) - left
            line += waiting.count(NEWLINE)
        decoded(decoder, b"", where, position, line, final=True)


def decoded(decoder, block: bytes, where: str, position: int, line: int, *, final: bool = False) -> str:
    """Decode a block. Raises SampleError with byte and line."""
    try:
        return decoder.decode(block, final)
    except UnicodeDecodeError as error:
        at = position + error.start
        place = f"at byte {at} (line {line + error.object.count(NEWLINE, 0, error.start)})"
        what = f"byte 0x{error.object[error.start]:02x} {place}: {error.reason}"
        raise SampleError(
            where, f"is not UTF-8: {what}; if it is Latin-1, convert it with `iconv -f latin1 -t utf-8`"
        ) from error


def refuse_binary(head: bytes, where: str) -> None:
    """Raise SampleError for a file that begins like a binary one, or like text of another encoding."""
    for mark, encoding in MARKS:
        if head.startswith(mark):
            advice = f"convert it with `iconv -f {encoding} -t utf-8`"
            raise SampleError(where, f"is {encoding.upper()} text instead of UTF-8: {advice}")
    kind = next((name for signature, name in SIGNATURES.items() if head.startswith(signature)), None)
    if kind is not None and (head.startswith(b"%PDF-") or not is_text(head)):
        raise SampleError(where, f"is not text: it looks like {kind}")


def is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
