"""The program with its imports done: a line of JSON arguments on stdin forks a run of it.

For tests that start it many times. Prints the run's process id, and its exit status when it ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

# Imported, but never used before the fork: a thread pool would not survive it.
_HEAVY = (
    "torch", "transformers", "transformers.models.llava_onevision.modeling_llava_onevision",
    "adatp_cli.answering.session", "adatp_cli.model.load", "adatp_cli.answering.run",
    "adatp_cli.cli.batch",
)  # fmt: skip


def main() -> None:
    """Serve until stdin ends."""
    from adatp_cli.cli.app import main as run

    for name in _HEAVY:
        importlib.import_module(name)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = run(json.loads(line))
            sys.stdout.flush()
            os._exit(code)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
