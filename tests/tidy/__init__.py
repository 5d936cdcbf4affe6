"""House rules as tests: what a reader may rely on everywhere."""
