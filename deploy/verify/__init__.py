"""Tries the containers on this machine; not part of the tests, since it needs Docker."""
