"""What the demos write: files that are whole or not there, and lines for a terminal that may have gone away."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TextIO

STREAMS = re.compile(r"/dev/(stdout|stderr|fd/\d+)|/proc/self/fd/\d+")  # they may be files, too, written by others


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file beside path, to be written inside the with block, that takes path's place at its end.

    On any error it is removed, and path is as before. An OSError then names path: that of a full disk doesn't. Where
    path is a link, the file that it leads to is meant, and the link stays.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")  # of this process
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        there = "what was there before is intact" if path.exists() else "nothing is there"
        raise OSError(error.errno or errno.EIO, f"{error.strerror or error}; {there}", str(path)) from error


def is_device(path: Path) -> bool:
    """Whether path is written through: /dev/stdout, /dev/null, a pipe with a name."""
    if STREAMS.fullmatch(os.path.abspath(path)):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def publish(path: Path, text: str, beginnings: tuple[str, ...], kind: str) -> None:
    """Write text to a file that a user has named, all of it or nothing; to a device as it is.

    What is there is overwritten only if it is empty or of the same kind, which one of the beginnings tells: a typo must
    not cost a file of results. Errors: ValueError for a file of another kind; OSError, naming path.
    """
    if is_device(path):
        try:
            with path.open("a", encoding="utf-8", errors="replace", newline="") as device:
                device.write(text)
        except OSError as error:
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error
        return
    if path.is_file() and path.stat().st_size:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            start = file.read(2000).lower()
        if not any(start.startswith(beginning.lower()) for beginning in beginnings):
            raise ValueError(f"{path} is there and is no {kind}: it is not overwritten, name another file")
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")


def explain(error: BaseException) -> str:
    """An error in words: without its number, the file first."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def user_path(text: str) -> Path:
    """A path on a command line: ~ is a home folder, which the shell puts there in some places only."""
    try:
        path = Path(text).expanduser()
        path.exists()  # a name that is too long or has a zero byte is refused here
    except (OSError, RuntimeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"must be a path, got {text!r} ({explain(error)})") from None
    return path


class Parser(argparse.ArgumentParser):
    """Whose help and errors may be read by nobody."""

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:
        if message:
            _write(message, sys.stderr if file is None else file, end="")  # type: ignore[arg-type]


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


def _write(text: str, stream: TextIO | None, **how: Any) -> str:
    """What went wrong, in words. From then on the stream leads nowhere, for what is in its buffer as well.

    Letters that the stream's encoding does not have are written as \\xe9, \\u03b3.
    """
    if stream is None:  # closed before the program began (>&-)
        return ""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True, **how)
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return error.strerror or str(error)
    return ""


def no_bar() -> bool | None:
    """tqdm's ``disable``: None lets it ask whether stderr is a terminal, which needs a stderr."""
    return True if sys.stderr is None else None
