"""What every suite may use; each fixture starts only when a test asks for it."""

import os

from hypothesis import settings

# Platforms live in this process, whose gRPC reads the environment in threads of its own at each
# look, and the C library lets nobody change it meanwhile: one segmentation fault in a few runs. So
# a test's `monkeypatch.setenv` changes Python's view alone, which is what our code reads and what
# it hands to its children.
os.putenv = lambda *_: None
os.unsetenv = lambda *_: None

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
pytest_plugins = ["tests.support.laptop", "tests.support.servers", "tests.support.tracing"]
