"""What uws4r costs and how fast it is: ``./build.sh bench``."""
