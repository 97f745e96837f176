"""Accuracy of profiles on the same questions: datasets, scoring, statistics, and the report."""
