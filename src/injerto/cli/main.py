"""Entry point: 0 done, 2 what the user can mend, 130 Ctrl-C, 1 our own fault."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import typer

import injerto.cli.before
import injerto.cli.compare
import injerto.cli.recipes
import injerto.cli.report
import injerto.cli.search
import injerto.cli.serve  # noqa: F401  these register their commands
from injerto.basics.errors import InjertoError, shorten, system_trouble
from injerto.basics.escapes import visible
from injerto.cli.commands import app

_CLICK_ERROR: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    Args:
        arguments: What follows the program's name; the process's own where not given.
    """
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name; the process's own where not given.

    Returns:
        The exit code.
    """
    _prepare_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False, prog_name="injerto")
        if code == 130:  # typer's own way of saying Ctrl-C
            return _interrupted(words)
        sys.stdout.flush()  # a reader that went away, or a full disk, shows here
        return code if isinstance(code, int) else 0
    except InjertoError as error:
        return _fail(str(error))
    except _CLICK_ERROR as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(getattr(error, "format_message")(), file=sys.stderr)  # noqa: B009
            return 2
        place = getattr(getattr(error, "ctx", None), "command_path", "injerto")
        said = getattr(error, "format_message")()  # noqa: B009
        if said.rstrip(".").endswith((": -q", ": --quiet")):
            return _fail(f"{said}; it stands before the command: injerto -q {place.partition(' ')[2]} ...")
        return _fail(f"{said} (see '{place} --help')")
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(words)
    except (SystemExit, BrokenPipeError):  # the reader went away (typer raises the first); nothing is left to say
        _forget_streams()
        return 0
    except MemoryError:
        return _out_of_memory(words)
    except Exception as error:
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
            return _out_of_memory(words)
        trouble = system_trouble(error)
        return _fault(error) if trouble is None else _fail(trouble)


def _prepare_streams() -> None:
    """Let no encoding end a run: what a stream cannot hold is written as an escape; a closed stream takes nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open until the process ends
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _forget_streams() -> None:
    """Write to nowhere what is still in the buffers, now and when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _command(words: Sequence[str]) -> str:
    """The command's name among what was typed."""
    return next((word for word in words if not word.startswith("-")), "")


def _interrupted(words: Sequence[str]) -> int:
    advice = ""
    if _command(words) in ("fit", "compare", "search", "demo"):
        advice = "; the same command goes on where it stopped"
    if _command(words) == "fit" and "--resume" not in words:
        instead = " in place of --overwrite" if "--overwrite" in words else ""
        advice = f"; the same command with --resume{instead} goes on where it stopped"
    print(f"\ninterrupted{advice}", file=sys.stderr)
    return 130


def _out_of_memory(words: Sequence[str]) -> int:
    if _command(words) in ("fit", "compare", "search"):
        return _fail("out of memory; lower --batch-size or --image-size, or raise --accumulate")
    return _fail("out of memory; give fewer or smaller inputs, or use a machine with more memory")


def _fail(message: str) -> int:
    print(f"error: {visible(' '.join(shorten(message).split()))}", file=sys.stderr)
    return 2


def _fault(error: BaseException) -> int:
    if os.environ.get("INJERTO_DEBUG"):
        raise error
    print(
        f"injerto failed: {type(error).__name__}: {visible(' '.join(str(error).split())[:500])} "
        "(this is our fault; INJERTO_DEBUG=1 shows where, please report it)",
        file=sys.stderr,
    )
    return 1
