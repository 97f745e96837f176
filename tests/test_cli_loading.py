"""Importing what answers need: the collector rests meanwhile, and only meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from adatp_cli.cli.open_model import collector_at_rest

# Counts the collections of every generation while everything is imported, in a process that has
# imported nothing yet, and then asks whether the collector is on again, and whether at the end, in
# what was registered first and so comes last, everything is out of its reach.
_COUNT = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 100_000))
from adatp_cli.cli.open_model import import_libraries
assert "torch" not in sys.modules
def collections():
    return sum(generation["collections"] for generation in gc.get_stats())
gc.collect()
before = collections()
import_libraries()
during = collections() - before
classes = "transformers.models.llava_onevision.modeling_llava_onevision"
print(during, gc.isenabled(), classes in sys.modules, "adatp_cli.answering.session" in sys.modules)
"""


def test_the_collector_rests_in_the_block_and_no_longer() -> None:
    assert gc.isenabled()
    with collector_at_rest():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_comes_back_after_an_error() -> None:
    with pytest.raises(ImportError), collector_at_rest():
        raise ImportError("no such library")
    assert gc.isenabled()


def test_where_it_was_off_it_stays_off() -> None:
    gc.disable()
    try:
        with collector_at_rest():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_all_is_imported_while_it_rests() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True, timeout=600
    )
    during, *facts = run.stdout.split()
    # Some libraries collect of their own accord, once or twice; the collector comes by hundreds.
    assert int(during) < 30
    assert facts == ["True", "True", "True", "True"]
