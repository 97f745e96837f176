"""`python -m adatp_cli` is `adatp`."""

from __future__ import annotations

import sys

from adatp_cli.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
