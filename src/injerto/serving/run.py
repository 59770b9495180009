"""The server as a process."""

import socket
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from injerto.basics import limits
from injerto.basics.errors import InjertoError
from injerto.basics.files import check_writable
from injerto.basics.progress import note, warn

LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    runs: Sequence[str | PathLike[str]],
    *,
    bank: str | PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    backbone: Any = None,
    precision: str = "auto",
    threads: int | None = None,
    memory: float | None = None,
    target: float = 0.1,
    queue: int = 1024,
    drifted: str | PathLike[str] | None = None,
    window: int | None = None,
    allow_modified: bool = False,
    allow_host: Sequence[str] = (),
) -> None:
    """Serve runs over HTTP until the process is told to stop; what is under way is finished then.

    Args:
        runs: Folders of finished runs.
        bank: Folder that adapters may be loaded from while it runs.
        host: Address to listen on.
        port: Port.
        backbone: The base of runs whose card cannot name it.
        precision: ``fp32``, ``bf16`` or ``auto``.
        threads: CPU threads, None for all cores.
        memory: Megabytes that the adapters of one base may take, None for no limit.
        target: Seconds that a batch may take.
        queue: Questions that may wait; more are turned away with 429.
        drifted: Folder for the inputs of windows that look changed; they are kept nowhere where not given.
        window: Inputs of a window, 8 to 256; a tenth of what an adapter's sketch was made of where not given.
        allow_modified: Whether adapters are loaded whose files are not as their card says.
        allow_host: Further names that the server is reached by, such as that of a proxy in front.

    Raises:
        InjertoError: Where a run cannot be opened, or the server's packages are not installed.
    """
    try:
        from injerto.serving.app import make_app
        from injerto.serving.connections import Server
    except ImportError as error:
        raise InjertoError(f"{error.name} is not installed; pip install 'injerto[serve]'") from None
    from injerto.serving.desk import Desk
    from injerto.serving.drift import Drifts
    from injerto.serving.gate import KEYS, Access, admin_token

    if not runs and bank is None:
        raise InjertoError("name a run or more to serve, or --bank with a folder to load them from")
    if not 1 <= port <= 65535:
        raise InjertoError(f"--port is a number from 1 to 65535, not {port}")
    if not target > 0:
        raise InjertoError(f"--target is a number of seconds above 0, not {target:g}")
    if queue < 1:
        raise InjertoError("--queue must be 1 or more")
    limit = None if memory is None else int(memory * 1e6)
    folder = None if bank is None else Path(bank)
    if threads is not None and threads < 1:
        raise InjertoError(f"--threads is 1 or more, not {threads}")
    if memory is not None and not memory > 0:
        raise InjertoError(f"--memory is a number of megabytes above 0, not {memory:g}")
    if drifted is not None:
        check_writable(Path(drifted), "--drifted")
        Path(drifted).mkdir(parents=True, exist_ok=True)
    access = Access.read(host, allow_host)
    door = _bind(host, port)
    drifts = Drifts(None if drifted is None else Path(drifted), window)
    note(f"loading {len(runs)} adapter{'' if len(runs) == 1 else 's'}")
    desk = Desk([Path(run) for run in runs], folder, backbone, precision, threads, limit, allow_modified)
    if host not in LOCAL and not access.keys:
        warn(f"anyone who reaches {host} can use this server; put keys into {KEYS} to ask for one")
    shown = f"[{host}]" if ":" in host else host
    note(f"serving {', '.join(desk.names) or 'nothing so far'} at http://{shown}:{port}")
    if admin_token() is None:
        print(f"management token, of this start: {access.token.decode()}", file=sys.stderr, flush=True)
    app = make_app(desk, target=target, longest=queue, drifts=drifts, access=access)
    Server(configured(app), door).run()


def configured(app: Any) -> Any:
    """Uvicorn's settings for an application: no time is unbounded, and no header of a proxy is believed.

    Args:
        app: From :func:`injerto.serving.app.make_app`.
    """
    import uvicorn

    from injerto.serving.connections import Guarded

    return uvicorn.Config(
        app, http=Guarded, ws="none", log_level="warning", timeout_graceful_shutdown=30, server_header=False,
        proxy_headers=False, h11_max_incomplete_event_size=limits.HEAD_BYTES,
    )  # fmt: skip


def _bind(host: str, port: int) -> socket.socket:
    """The address, taken before time is spent on anything else."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # so that asyncio sets TCP_NODELAY
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError as error:
        door.close()
        raise InjertoError(f"cannot listen at {host}:{port}: {error.strerror}; give another --port or --host") from None
    return door
