"""The laptop edition: the whole platform in one command, on real servers as child processes."""
