"""What the program does, as it was written down: run, compare, write again.

`python -m tests.goldens --check` compares every case, `--write` replaces what is written down.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums depend on it; before PyTorch loads
