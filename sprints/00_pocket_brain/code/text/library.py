"""Docstrings and short functions of the Python standard library and of permissively licensed packages that are installed anyway.

Nothing is downloaded and nothing of these texts is committed: the manifest says which packages a corpus was made from (name,
version, licence, sha256 of the extracted text), so that a corpus built elsewhere can be told apart.
"""

import ast
import hashlib
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import distribution, version
from pathlib import Path
from typing import cast

PACKAGES = {  # distribution -> its import folder; each one's licence is BSD, MIT, Apache-2.0 or PSF
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas",
    "scikit-learn": "sklearn",
    "matplotlib": "matplotlib",
    "sympy": "sympy",
    "networkx": "networkx",
    "SQLAlchemy": "sqlalchemy",
    "rich": "rich",
    "Flask": "flask",
    "click": "click",
    "Jinja2": "jinja2",
    "fastapi": "fastapi",
    "pydantic": "pydantic",
    "requests": "requests",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "peft": "peft",
    "datasets": "datasets",
}
SMOKE_MODULES = ("textwrap.py", "random.py", "fractions.py", "statistics.py", "heapq.py", "bisect.py", "shutil.py", "csv.py")
SHORTEST = 40  # characters; less says nothing of its own
HELD_OUT_EVERY = 40  # one file in so many is held out
LICENCES = re.compile(r"copyright|licen[sc]e|all rights reserved", re.I)


@dataclass(frozen=True)
class Text:
    source: str  # "docstring" or "code"
    package: str
    text: str
    held_out: bool


def packages() -> list[dict[str, str]]:
    """Name, version and licence of what is read."""
    found = [{"name": "python", "version": sysconfig.get_python_version(), "licence": "PSF-2.0"}]
    for name in PACKAGES:
        about = cast(Message, distribution(name).metadata)
        classifiers = [c.split(" :: ")[-1] for c in about.get_all("Classifier") or [] if c.startswith("License")]
        licence = about.get("License-Expression") or " / ".join(classifiers) or (about.get("License") or "").split("\n")[0]
        found.append({"name": name, "version": version(name), "licence": licence})
    return found


def files(smoke: bool) -> Iterator[tuple[str, Path, Path]]:
    """(package, root, file) of every Python file that is read, in a fixed order; tests and generated tables are left out."""
    standard = Path(sysconfig.get_path("stdlib"))
    if smoke:
        yield from (("python", standard, standard / name) for name in SMOKE_MODULES)
        return
    for path in sorted(standard.rglob("*.py")):
        if not {"site-packages", "test", "tests", "idle_test", "lib2to3", "encodings"} & set(path.parts[len(standard.parts) :]):
            yield "python", standard, path
    for name, folder in PACKAGES.items():
        root = Path(str(distribution(name).locate_file(folder)))
        for path in sorted(root.rglob("*.py")):
            if not {"test", "tests", "testing", "_vendor"} & set(path.parts[len(root.parts) :]):
                yield name, root, path


def usable(text: str) -> bool:
    """Plain text without markup for chats, licences, or tables of numbers."""
    letters = sum(map(str.isalpha, text))
    return text.isascii() and "<|" not in text and letters > 0.5 * len(text) and not LICENCES.search(text)


class Seen:
    """Remembers paragraphs and functions by their words, digits and layout set aside."""

    def __init__(self):
        self.hashes: set[int] = set()

    @staticmethod
    def key(text: str) -> int:
        return hash(re.sub(r"[\W\d_]+", " ", text.lower()).strip())

    def __contains__(self, text: str) -> bool:
        return self.key(text) in self.hashes

    def new(self, text: str) -> bool:
        known = text in self
        self.hashes.add(self.key(text))
        return not known


def extract(source: str) -> Iterator[tuple[str, str, str]]:
    """("docstring", text, "") and ("code", text, its docstring) of one file; files that do not parse give nothing."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = source.split("\n")
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring and SHORTEST <= len(docstring) <= 4000:
                yield "docstring", docstring, ""
        if isinstance(node, ast.Dict):  # the language reference is a dictionary of long texts (pydoc_data/topics.py)
            for value in node.values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and len(value.value) > 400:
                    yield "docstring", value.value.strip(), ""
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            block = lines[node.lineno - 1 : node.end_lineno]
            indent = len(block[0]) - len(block[0].lstrip())
            text = "\n".join(line[indent:] if not line[:indent].strip() else line for line in block)
            if 80 <= len(text) <= 1200:
                yield "code", text, ast.get_docstring(node) or ""


def texts(smoke: bool = False) -> list[Text]:
    """All texts, deduplicated; what a held-out file says is never said by a training file."""
    listed = [(package, path.relative_to(root), path) for package, root, path in files(smoke)]
    every = 4 if smoke else HELD_OUT_EVERY
    held = {path: zlib.crc32(f"{package}/{name.as_posix()}".encode()) % every == 0 for package, name, path in listed}
    seen, kept_back, found = Seen(), Seen(), []
    for package, _, path in sorted(listed, key=lambda item: not held[item[2]]):
        for kind, text, docstring in extract(path.read_text(encoding="utf-8", errors="ignore")):
            if kind == "docstring":
                paragraphs = [paragraph for paragraph in text.split("\n\n") if seen.new(paragraph)]
                if held[path]:
                    kept_back.hashes.update(kept_back.key(part) for part in paragraphs if len(part) >= SHORTEST)
                text = "\n\n".join(paragraphs)
            elif not seen.new(text) or (not held[path] and any(part in kept_back for part in docstring.split("\n\n"))):
                continue
            if len(text) >= SHORTEST and usable(text):
                found.append(Text(kind, package, text, held[path]))
    return found


def manifest(found: list[Text]) -> list[dict[str, str | int]]:
    """What the texts were made from: per package its version, licence, characters and the sha256 of its texts."""
    rows: list[dict[str, str | int]] = []
    for about in packages():
        mine = [text.text for text in found if text.package == about["name"]]
        digest = hashlib.sha256("\0".join(mine).encode()).hexdigest()
        rows.append({**about, "texts": len(mine), "characters": sum(map(len, mine)), "sha256": digest})
    return rows
