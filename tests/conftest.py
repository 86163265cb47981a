"""Settings of all tests: hypothesis measures no time, because a shared machine makes it lie."""

from hypothesis import settings

settings.register_profile("project", deadline=None, max_examples=60)
settings.load_profile("project")
