"""adatp: ask questions about local video, with attention-debiased token pruning."""

__version__ = "0.1.0"
