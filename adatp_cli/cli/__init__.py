"""The screen: options to calls, events to text or JSON, errors to one line and an exit code."""
