"""Fixtures of these tests."""

from one_thread import single_threaded  # noqa: F401
