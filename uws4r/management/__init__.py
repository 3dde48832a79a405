"""What ``manage.py`` can do with uws4r."""
