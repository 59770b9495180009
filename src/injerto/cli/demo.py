"""The demo: which strategy carries a model from one drawing style to another? One comparison answers it."""

from pathlib import Path
from typing import Any

from injerto.basics.progress import note, say
from injerto.cli.compare import print_comparison
from injerto.cli.show import print_json
from injerto.reporting.report import report
from injerto.studies.compare import compare

DATA, SOURCE, TARGET, BACKBONE = "emoji-styles", "noto", "openmoji-line", "packaged:efficientnet-lite0"
GRID = {"tuning": ["head", "lora:last:2"], "alignment": ["none", "mmd", "dann"]}
ROWS = [{"tuning": "full", "alignment": "none"}]
STEPS = 60


def run_demo(out: Path, seeds: int, as_json: bool) -> None:
    """Compare strategies on the bundled drawings; print the table and write the page.

    Args:
        out: Folder of the comparison; what is there already is not done again.
        seeds: How many.
        as_json: Print one JSON object instead of the table.

    Raises:
        InjertoError: Where ``out`` holds something else.
    """
    note(f"learned from '{SOURCE}' drawings; '{TARGET}' drawings are seen without their labels, the others not at all")
    content: dict[str, Any] = compare(
        DATA, source=SOURCE, target=TARGET, backbone=BACKBONE, grid=GRID, rows=ROWS, steps=STEPS, seeds=seeds, out=out
    )
    page = report(out)
    if as_json:
        print_json(content)
        return
    print_comparison(content, out)
    say(f"page: {page}")
    say(f"the same by hand: {content['command']}")
