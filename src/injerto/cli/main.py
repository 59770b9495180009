"""Entry point: 0 done, 2 what the user can mend, 130 Ctrl-C, 1 our own fault."""

import errno
import os
import sys
from collections.abc import Sequence

import typer

import injerto.cli.before
import injerto.cli.compare
import injerto.cli.recipes
import injerto.cli.report
import injerto.cli.search
import injerto.cli.serve  # noqa: F401  these register their commands
from injerto.basics.errors import InjertoError
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
    try:
        code = app(args=list(arguments) if arguments is not None else None, standalone_mode=False, prog_name="injerto")
        if code == 130:  # typer's own way of saying Ctrl-C
            return _interrupted()
        return code if isinstance(code, int) else 0
    except InjertoError as error:
        return _fail(str(error))
    except _CLICK_ERROR as error:
        place = getattr(getattr(error, "ctx", None), "command_path", "injerto")
        said = getattr(error, "format_message")()  # noqa: B009
        if said.rstrip(".").endswith((": -q", ": --quiet")):
            return _fail(f"{said}; it stands before the command: injerto -q {place.partition(' ')[2]} ...")
        return _fail(f"{said} (see '{place} --help')")
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except SystemExit:  # typer's way of taking a broken pipe
        return 0
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  the reader went away; nothing is left to say
        return 0
    except MemoryError:
        return _fail("out of memory; lower --batch-size or --image-size, or raise --accumulate")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _fail(
                f"no space left on the disk ({error.filename or 'while writing'}); free space or choose another folder"
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR):
            return _fail(f"{error.filename or 'a path'}: {error.strerror}; choose another path")
        return _fault(error)
    except Exception as error:
        if "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower():
            return _fail("out of memory; lower --batch-size or --image-size, or raise --accumulate")
        return _fault(error)


def _interrupted() -> int:
    print("\ninterrupted; the same command goes on where it stopped (fit: with --resume)", file=sys.stderr)
    return 130


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _fault(error: BaseException) -> int:
    if os.environ.get("INJERTO_DEBUG"):
        raise error
    print(
        f"injerto failed: {type(error).__name__}: {' '.join(str(error).split())[:500]} "
        "(this is our fault; INJERTO_DEBUG=1 shows where, please report it)",
        file=sys.stderr,
    )
    return 1
