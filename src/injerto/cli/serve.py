"""The command ``serve``: adapters over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from injerto.cli.commands import AllowModified, _option, app


@app.command()
def serve(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of finished runs.", show_default=False)] = None,
    bank: Annotated[Path | None, _option("Folder that adapters may be loaded from while it runs.")] = None,
    host: Annotated[str, _option("Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, _option("Port.")] = 8000,
    backbone: Annotated[str | None, _option("Base of runs whose card cannot name it.")] = None,
    precision: Annotated[str, _option("fp32, bf16 or auto.")] = "auto",
    threads: Annotated[int | None, _option("CPU threads; OMP_NUM_THREADS or all cores where not given.")] = None,
    memory: Annotated[float | None, _option("Megabytes that adapters of one base may take.")] = None,
    target: Annotated[float, _option("Seconds that a batch may take.")] = 0.1,
    queue: Annotated[int, _option("Questions that may wait; more are turned away.")] = 1024,
    allow_modified: AllowModified = False,
    drifted: Annotated[Path | None, _option("Folder to save inputs in that look changed.")] = None,
    window: Annotated[int | None, _option("Inputs that are tested together; set by each adapter.")] = None,
    allow_host: Annotated[list[str] | None, _option("Name that it is reached by; may be repeated.")] = None,
) -> None:
    """Serve adapters over HTTP, with a page to try them at /."""
    from injerto.serving.run import serve as run

    run(
        runs or [], bank=bank, host=host, port=port, backbone=backbone, precision=precision, threads=threads,
        memory=memory, target=target, queue=queue, drifted=drifted, window=window, allow_modified=allow_modified,
        allow_host=allow_host or (),
    )  # fmt: skip
