"""Template tags: ``{% load uws4r %}``."""
