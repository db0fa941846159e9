"""What the demos write: files that are whole or not there, and lines for a terminal that may have gone away."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside path, to be written inside the with block, that takes path's place at its end.

    On any error it is removed, and path is as before. An OSError then names path: that of a full disk doesn't.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # of this process
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        there = "what was there before is intact" if path.exists() else "nothing is there"
        raise OSError(error.errno or errno.EIO, f"{error.strerror or error}; {there}", str(path)) from error


def say(text: str) -> bool:
    """Print to stdout; False if that can't be: no reader (| head), no place (> FILE on a full disk).

    That must not end a sweep whose results are in files. It is said once, on stderr.
    """
    problem = _write(text, sys.stdout)
    if problem:
        warn(f"stdout can't be written ({problem}); files are written all the same")
    return not problem


def warn(text: str) -> None:
    """Print to stderr, if anybody reads it."""
    _write(text, sys.stderr)


def _write(text: str, stream: TextIO | None) -> str:
    """What went wrong, in words. From then on the stream leads nowhere, for what is in its buffer as well."""
    if stream is None:  # closed before the program began (>&-)
        return ""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return error.strerror or str(error)
    return ""


def no_bar() -> bool | None:
    """tqdm's ``disable``: None lets it ask whether stderr is a terminal, which needs a stderr."""
    return True if sys.stderr is None else None
