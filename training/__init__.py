"""How the bundled `tiny` was made: what it is built of, what it was taught, and in which order."""
