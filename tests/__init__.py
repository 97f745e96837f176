"""A package, or another one called `tests` that is installed would be found in its place."""
