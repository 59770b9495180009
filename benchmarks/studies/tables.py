"""The tables of the pages, out of the committed results beside this file.

    python benchmarks/studies/tables.py

Rewrites what stands between `<!-- NAME -->` and `<!-- /NAME -->` in the pages, so that no figure there is typed.
"""

from pathlib import Path

from pages.guides import (
    advise,
    bank,
    campaign,
    drift,
    interval,
    load,
    pacs,
    rank,
    selection,
    terms,
    texts,
    unseen,
    validators,
)
from pages.lesson import LESSON
from pages.methods import method_blocks
from pages.parts import DOCS
from pages.readme import demo, strategies
from pages.speed import of_lora, of_tunings, speed

from injerto.basics.files import write_text


def put(page: Path, name: str, block: str) -> None:
    """Write a block between its marks."""
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    assert found, f"{page.name} has no block {name}"
    write_text(page, before + start + block + end + after)


def blocks() -> dict[tuple[str, str], str]:
    """Every table by page and name."""
    return {
        ("alignment.md", "pacs"): pacs(),
        ("alignment.md", "unseen"): unseen(),
        ("alignment.md", "sentiment"): texts("sentiment"),
        ("alignment.md", "terms"): terms(),
        ("alignment.md", "reviews"): texts("reviews"),
        ("gap.md", "validators"): validators(),
        ("gap.md", "advise"): advise(),
        ("gap.md", "rank"): rank(),
        ("gap.md", "selection"): selection(),
        ("compare.md", "interval"): interval(),
        ("bank.md", "bank"): bank(),
        ("bank.md", "load"): load(),
        ("bank.md", "drift"): drift(),
        ("reliability.md", "campaign"): campaign(),
        ("../README.md", "demo"): demo(),
        **method_blocks(),
        ("../README.es.md", "demo"): demo("es"),
        ("tuning.md", "speed"): of_tunings(),
        ("lora.md", "lora-speed"): of_lora(),
        ("../README.md", "speed"): speed(),
        ("../README.es.md", "speed"): speed("es"),
        **{("../README.md", name): strategies(name) for name in ("emoji", "sentiment")},
        **{("../README.es.md", name): strategies(name, "es") for name in ("emoji", "sentiment")},
        **{("lesson.md", name): block("en") for name, block in LESSON.items()},
        **{("lesson.es.md", name): block("es") for name, block in LESSON.items()},
    }


def main() -> None:
    for (page, name), block in blocks().items():
        put(DOCS / page, name, block)


if __name__ == "__main__":
    main()
