"""Documents of every format, written by the usual libraries."""

import zipfile
from pathlib import Path

import docx
import fpdf
import openpyxl
import pptx


def write_documents(folder: Path) -> None:
    """Write one document per format, each with the title `Mills` where the format has one."""
    write_pdf(folder / "mills.pdf", ["A quern is a hand mill.", "Bread is baked."])
    write_docx(folder / "mills.docx")
    slides = pptx.Presentation()
    slides.core_properties.title = "Mills"
    for title in ("Quern", "Bread"):
        slides.slides.add_slide(slides.slide_layouts[5]).shapes.title.text = title
    slides.save(folder / "mills.pptx")
    book = openpyxl.Workbook()
    book.properties.title = "Mills"
    book.active.title = "Prices"
    book.active.append(["Quern", "old"])
    book.save(folder / "mills.xlsx")
    head = "<head><meta charset='cp1252'><title>M&uuml;lls &amp; Mills</title></head>"
    html = f"<html>{head}<body><h1>Quern</h1><p>Mühle</p></body></html>"
    (folder / "mills.html").write_bytes(html.encode("cp1252"))
    write_epub(folder / "mills.epub")


def write_pdf(path: Path, pages: list[str]) -> None:
    """Write a PDF with one line per page."""
    pdf = fpdf.FPDF()
    pdf.set_title("Mills")
    pdf.set_font("helvetica")
    for text in pages:
        pdf.add_page()
        if text:
            pdf.cell(text=text)
    pdf.output(str(path))


def write_docx(path: Path) -> None:
    """Write a Word document with a heading and a paragraph."""
    document = docx.Document()
    document.core_properties.title = "Mills"
    document.add_heading("Quern", 1)
    document.add_paragraph("A quern is a hand mill.")
    document.save(str(path))


def write_epub(path: Path) -> None:
    """Write an e-book of one chapter."""
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        '<dc:identifier id="i">i</dc:identifier>'
        "<dc:title>Mills</dc:title><dc:language>en</dc:language></metadata><manifest>"
        '<item id="c" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="c"/></spine></package>'
    )
    container = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="p.opf" media-type="application/oebps-package+xml"/>'
        "</rootfiles></container>"
    )
    chapter = (
        '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>c</title></head>'
        "<body><h1>Quern</h1><p>A quern is a hand mill.</p></body></html>"
    )
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", container)
        book.writestr("p.opf", package)
        book.writestr("c.xhtml", chapter)
