"""What the site does beyond its theme.

Files outside docs/ that pages link to come along, formulas become MathML, the commands are written down by the program.
"""

import inspect
import re
from html import unescape
from pathlib import Path
from typing import Any

import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)(#[^)\s]*)?(\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)

ROLE = re.compile(r":(?:class|func|mod|meth|attr|data):(?=<code>)")
"""Sphinx's marks in docstrings, which Markdown leaves standing."""


def outside(page: str, link: str) -> Path | None:
    """The file outside docs/ that a link on a page means, None where it stays inside or there is none."""
    path = ((ROOT / "docs" / page).parent / link).resolve()
    inside = path.is_relative_to(ROOT / "docs") or not path.is_relative_to(ROOT)
    return None if inside or not path.is_file() else path.relative_to(ROOT)


def carried(target: Path) -> str:
    """Where a file comes to lie on the site; sources and pages are shown as text."""
    return f"files/{target.as_posix()}" + (".txt" if target.suffix in (".md", ".py", "") else "")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to, under files/."""
    found = set()
    for file in files.documentation_pages():
        for _, link, _, _ in LINK.findall(file.content_string):
            target = outside(file.src_uri, link)
            if target is not None:
                found.add(target)
    for target in sorted(found):
        files.append(File.generated(config, carried(target), content=(ROOT / target).read_bytes()))
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    return files


def commands() -> str:
    """Every command with its flags, out of the program itself."""
    from injerto.cli.main import app

    lines = ["# Commands", ""]
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        lines += [f"## injerto {name}", "", inspect.cleandoc(command.help or ""), "", "| | |", "| --- | --- |"]
        for one in command.params:
            flags = f"`{', '.join(one.opts)}`" if one.param_type_name == "option" else f"`{one.name.upper()}`"
            text = " ".join((getattr(one, "help", None) or "").split()).replace("|", "\\|")
            default = (
                one.default if isinstance(one.default, str | int | float) and one.default not in (False, "") else None
            )
            lines.append(f"| {flags} | {text}{f' (default: {default})' if default is not None else ''} |")
        lines.append("")
    return "\n".join(lines)


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links at the files that came along; one that is missing stays as it is, and is reported."""

    def moved(match: re.Match[str]) -> str:
        target = outside(page.file.src_uri, match[2])
        if target is None:
            return match[0]
        up = "../" * page.file.src_uri.count("/")
        return f"{match[1]}{up}{carried(target)}{match[4]}"

    return LINK.sub(moved, text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers draw by themselves: no script, nothing from elsewhere."""

    def drawn(match: re.Match[str]) -> str:
        formula, display = re.sub(r"\\[lr]Vert", r"\\|", unescape(match[2])), "block" if match[1] == "div" else "inline"
        return convert(formula, display=display)

    return ROLE.sub("", FORMULA.sub(drawn, html))
