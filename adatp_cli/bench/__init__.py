"""How fast profiles are, and how much memory they take, beside plain transformers."""
