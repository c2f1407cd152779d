"""`marginwatch <command>`, the same as `python -m monitor <command>`: runs it, whatever becomes of its output."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from monitor.command_line import PARSER

_CANNOT_TELL = 3
"""Exit status of status and watch for what they cannot tell."""

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What an output has of its own: a full disk, a quota, a terminal that has gone, a file that was opened to be read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    _stand_in()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without a minus sign still gets its figures
    cannot = _CANNOT_TELL if words[:1] in (["status"], ["watch"]) else 1
    try:
        args = PARSER.parse_args(words)
        status = int(args.run(args))
        print(end="", flush=True)  # what does not go out at the interpreter's end is nobody's to catch
        return status
    except SystemExit as exc:
        if exc.code == 2 and cannot == _CANNOT_TELL:
            return _CANNOT_TELL
        raise
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has gone; there is nobody to tell
        _discard_output()
        return cannot
    except OSError as exc:
        if exc.errno not in _UNWRITABLE:
            raise
        with suppress(OSError):  # a terminal takes both away
            print(f"marginwatch {words[0]}: what it prints cannot be written: {exc.strerror}", file=sys.stderr)
        _discard_output()
        return cannot


def _stand_in() -> None:
    """A stream that was closed before we began (`>&-`) is the null device from here on.

    It gets the number that has become free, which the next socket or the store would have had otherwise.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # until the end


def _discard_output() -> None:
    """What is left in the buffer would be tried once more at the interpreter's end, and make the exit status 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
