"""What every suite may use; each fixture starts only when a test asks for it."""

pytest_plugins = ["tests.support.laptop", "tests.support.servers", "tests.support.tracing"]
