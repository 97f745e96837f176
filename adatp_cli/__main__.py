"""The program's entry: `adatp`, and `python -m adatp_cli`."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from types import TracebackType


def main() -> int:
    """Run the program and return its exit code; Ctrl-C shows no traceback at any moment.

    While the program's modules load, and once it has ended, nothing else of ours can catch it. The
    process then ends by the signal itself, which shells show as 130. SIGTERM unwinds, so that no
    half-written file is left behind.
    """
    sys.excepthook = _without_interrupts  # before anything that takes time to import
    import os
    import signal

    wait_briefly(os.environ)

    try:
        from adatp_cli.cli.app import main as run
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "failed to map segment" not in str(error):
            raise
        sys.stderr.write("error: out of memory before anything began; raise ulimit -v\n")
        return 5
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    code = run()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return code


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Have PyTorch's threads sleep soon when they wait for each other, unless the user chose.

    By default they spin for milliseconds, which on a machine with other work keeps those from
    running that they wait for. To sleep at once would double the time of small steps where the
    machine is idle. PyTorch reads this as it loads.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = "2000"


def _without_interrupts(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


if __name__ == "__main__":
    sys.exit(main())
