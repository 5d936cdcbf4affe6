"""What every suite may use; each fixture starts only when a test asks for it."""

from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
pytest_plugins = ["tests.support.laptop", "tests.support.servers", "tests.support.tracing"]
