"""What web pages and PDFs say: their title and their text, by Beautiful Soup and pypdf."""

from __future__ import annotations

from pathlib import Path

from agents.errors import ConfigError


def clean(text: str) -> str:
    """Replace lone surrogates (undecodable file names, odd PDFs), which no UTF-8 store can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_html(content: str, path: Path) -> tuple[str, str]:
    """Return (title, visible text) of a page.

    Raises:
        ConfigError: The parser gives it up, as with marked sections that no HTML has.
    """
    from bs4 import BeautifulSoup, ParserRejectedMarkup

    try:
        page = BeautifulSoup(content, "html.parser")
    except ParserRejectedMarkup as error:
        raise ConfigError(f"{path}: not HTML ({str(error).split()[-1]}); save it anew, or as text") from error
    title = page.title.get_text(" ", strip=True) if page.title else ""
    for tag in page(["script", "style", "template", "noscript", "title"]):
        tag.decompose()
    return title, page.get_text("\n", strip=True)


def read_pdf(path: Path) -> tuple[str, str]:
    """Return (title of the metadata, text of all pages).

    Raises:
        ConfigError: It cannot be read: encrypted, cut short, or no PDF.
    """
    import logging

    from pypdf import PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it repeats on stderr what the error below says
    try:
        reader = PdfReader(path)
        text = "\n\n".join(page.extract_text() for page in reader.pages)
        return clean(str((reader.metadata and reader.metadata.title) or "")), clean(text)
    except Exception as error:  # pypdf raises its own errors and, on broken files, almost any other
        raise ConfigError(f"{path}: not a readable PDF ({error}); is it encrypted or cut short?") from error
