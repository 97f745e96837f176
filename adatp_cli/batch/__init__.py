"""Many clips and their questions: where they come from, and the file that the answers go to."""
