"""
What hostile clients do to a server, and what it promises them: ``./build.sh soak``, and tests/e2e/test_hostile.py.

Each module is one part. Its functions are given a running site and numbers, small ones by the tests and large
ones by the soak; they return figures, and raise AssertionError where a promise is broken.
"""
