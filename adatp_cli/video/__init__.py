"""From a video file to frames with timestamps, whatever the file does."""
