"""For all tests: how many examples hypothesis tries where a test does not say."""

from hypothesis import settings

from support.thorough import tries

settings.register_profile("shoal", max_examples=tries(settings.default.max_examples))
settings.load_profile("shoal")
