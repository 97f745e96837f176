"""The bundled `tiny` model: its world of moving coloured shapes, its questions, its clips."""
