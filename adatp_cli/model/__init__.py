"""From a name to a loaded, verified model, and from frames and a question to its inputs."""
