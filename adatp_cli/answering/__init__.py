"""One clip and its questions in, a stream of events, answers and their records out."""
