"""EPUB 3.3 (https://www.w3.org/TR/epub-33/): a page of the story is a file of the book, a choice is a link."""

import io
import re
import zipfile
from html import escape

from ..api.document import StoryDocument
from .reading import UNTAKEN, Book, Leaf, Link
from .twee import ifid

CONTAINER = """<?xml version="1.0" encoding="utf-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""
PAGE = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">
<head><title>{title}</title><link rel="stylesheet" type="text/css" href="style.css"/></head>
<body>
{body}
</body>
</html>
"""
PACKAGE = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">urn:uuid:{id}</dc:identifier>
<dc:title>{title}</dc:title>
<dc:language>en</dc:language>
<dc:description>{about}</dc:description>
<meta property="dcterms:modified">{modified}</meta>
<meta property="schema:accessMode">textual</meta>
<meta property="schema:accessModeSufficient">textual</meta>
<meta property="schema:accessibilityFeature">tableOfContents</meta>
<meta property="schema:accessibilityHazard">none</meta>
</metadata>
<manifest>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="style" href="style.css" media-type="text/css"/>
{manifest}
</manifest>
<spine>
{spine}
</spine>
</package>
"""
STYLE = """body { line-height: 1.55; margin: 1.5em; }
h1 { margin-top: 25vh; text-align: center; }
h2 { font-size: 0.9em; font-weight: normal; letter-spacing: 0.1em; opacity: 0.7; text-align: right; }
p { margin: 0 0 0.8em; }
ul.choices { list-style: none; margin: 2em 0 0; padding: 0; }
ul.choices li { border-top: 1px solid; padding: 0.7em 0; }
.about, .end { font-style: italic; text-align: center; }
.untaken { opacity: 0.6; }
"""


def write(story: StoryDocument, book: Book) -> bytes:
    """`mimetype` stands first and unpacked, so that the kind of the file can be read at its beginning."""
    pages = {f"page-{leaf.number}": _leaf(leaf) for leaf in book.leaves}
    cover = f'<h1>{escape(book.title)}</h1>\n<p class="about">{escape(book.about)}</p>\n{_choices(book.starts)}'
    names = ["cover", *pages]
    listed = [("cover", book.title), *((f"page-{leaf.number}", f"Page {leaf.number}") for leaf in book.leaves)]
    toc = "\n".join(f'<li><a href="{name}.xhtml">{escape(label)}</a></li>' for name, label in listed)
    nav = f'<nav epub:type="toc" id="toc">\n<h2>Contents</h2>\n<ol>\n{toc}\n</ol>\n</nav>'
    package = PACKAGE.format(
        id=ifid(story).lower(),
        title=escape(book.title),
        about=escape(book.about),
        modified=_modified(story),
        manifest="\n".join(f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml"/>' for name in names),
        spine="\n".join(f'<itemref idref="{name}"/>' for name in names),
    )
    files = {"META-INF/container.xml": CONTAINER, "OEBPS/book.opf": package, "OEBPS/style.css": STYLE}
    titles = dict(listed) | {"nav": "Contents"}
    for name, body in {"nav": nav, "cover": cover, **pages}.items():
        files[f"OEBPS/{name}.xhtml"] = PAGE.format(title=escape(titles[name]), body=body)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("mimetype"), "application/epub+zip", zipfile.ZIP_STORED)
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _leaf(leaf: Leaf) -> str:
    text = "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in leaf.paragraphs)
    end = '\n<p class="end">The end.</p>\n<p class="end"><a href="cover.xhtml">Begin again</a></p>' if leaf.ending else ""
    return f"<section>\n<h2>Page {leaf.number}</h2>\n{text}\n{_choices(leaf.links)}{end}\n</section>"


def _choices(links: tuple[Link, ...]) -> str:
    def item(link: Link) -> str:
        if link.to is None:
            return f'<li class="untaken">{escape(link.text)} <em>{UNTAKEN}</em></li>'
        return f'<li><a href="page-{link.to}.xhtml">{escape(link.text)}</a></li>'

    return f'<ul class="choices">\n{chr(10).join(map(item, links))}\n</ul>' if links else ""


def _modified(story: StoryDocument) -> str:
    """When the newest page was made (to the second, in UTC), so that an unchanged story gives the same book."""
    times = [time[:19] for time in (story.created, *(page.created for page in story.pages))]
    return (
        max((time for time in times if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", time)), default="2000-01-01T00:00:00") + "Z"
    )
