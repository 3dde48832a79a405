"""The Autobahn|Testsuite against uWSGI as it is shipped: ``./build.sh conformance`` (README.md)."""
