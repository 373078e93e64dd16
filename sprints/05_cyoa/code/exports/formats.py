"""A story as a file, and a file as a story: the functions that the API calls."""

import io
import re
import stat
import unicodedata
import zipfile
import zlib
from pathlib import PurePosixPath

from shared.errors import UserError

from ..api.document import StoryDocument
from . import epub, ink, markdown, native, playable, twee
from .reading import book

FORMATS = ("json", "txt", "twee", "ink", "epub", "html")  # txt is Markdown
PACKED, UNPACKED, RATIO = 2 * 1024 * 1024, 16 * 1024 * 1024, 100  # bytes of a file and of what is in a zip, and one over the other
ENTRIES, NAME = 16, 120  # files in a zip, characters of their names


def export(story: StoryDocument, format: str) -> bytes:
    """One of FORMATS; the same story gives the same bytes. Raises UserError for any other format."""
    if format == "json":
        return native.write(story).encode()
    if format not in FORMATS:
        raise UserError(f"there is no such format: choose one of {', '.join(FORMATS)}")
    read = book(story)
    if format == "epub":
        return epub.write(story, read)
    texts = {"txt": lambda: markdown.write(read), "ink": lambda: ink.write(read), "html": lambda: playable.write(story, read)}
    return texts.get(format, lambda: twee.write(story, read))().encode()


def file_name(story: StoryDocument, format: str) -> str:
    """The story's title in plain lower-case letters, with the ending of the format."""
    ascii_title = unicodedata.normalize("NFKD", story.title).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_title)[:NAME].strip("-")
    return f"{slug or 'story'}.{'md' if format == 'txt' else format}"


def import_story(content: bytes) -> StoryDocument:
    """A story from our JSON, from a Twee 3 file, or from a zip with one of them in it.

    Raises UserError for everything else, and for what is larger than a story can be.
    """
    if len(content) > PACKED:
        raise UserError(f"the file is larger than {PACKED // 2**20} MiB")
    if content.startswith(b"PK\3\4"):
        content = _unzipped(content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("the file is not text in UTF-8: import a JSON or Twee export, or a zip with one") from None
    if text.lstrip().startswith("{"):
        return native.read(text)
    if text.lstrip().startswith("::"):
        return native.check(twee.read(text))
    raise UserError("the file is neither a JSON export nor Twee 3: it begins with neither `{` nor `::`")


def _unzipped(content: bytes) -> bytes:
    """The one .json, .twee or .tw of a zip. Its directory is judged first, and no more is unpacked than it says."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) > ENTRIES:
                raise UserError(f"the zip holds more than {ENTRIES} files")
            for entry in entries:
                _judge(entry)
            if sum(entry.file_size for entry in entries) > UNPACKED:
                raise UserError(f"the zip unpacks to more than {UNPACKED // 2**20} MiB")
            if len({entry.filename for entry in entries}) < len(entries):
                raise UserError("two files in the zip have the same name")
            stories = [entry for entry in entries if PurePosixPath(entry.filename).suffix in (".json", ".twee", ".tw")]
            if len(stories) != 1:
                raise UserError(f"the zip holds {len(stories)} files that could be a story (.json, .twee, .tw): it needs one")
            with archive.open(stories[0]) as file:
                unpacked = file.read(min(stories[0].file_size, UNPACKED) + 1)
                if len(unpacked) > stories[0].file_size:
                    raise UserError("a file in the zip is larger than the zip says")
                return unpacked
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError, RuntimeError):
        raise UserError("the zip is damaged or of a kind that is not supported") from None


def _judge(entry: zipfile.ZipInfo) -> None:
    path = PurePosixPath(entry.filename)
    odd = entry.orig_filename != entry.filename or any(c in '\\:*?"<>|' or ord(c) < 32 for c in entry.filename)
    if odd or path.is_absolute() or ".." in path.parts or len(entry.filename) > NAME:
        raise UserError("a name in the zip points out of it, or is none that every system takes")
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError("the zip is encrypted or packed in an unusual way: pack it again")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UserError("the zip holds a link")
    if entry.file_size > RATIO * max(entry.compress_size, 100):
        raise UserError(f"a file in the zip unpacks to more than {RATIO} times its size")
