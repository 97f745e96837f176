"""Answers for programs and pages: one model behind HTTP."""
