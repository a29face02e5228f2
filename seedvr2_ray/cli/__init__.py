"""The command line, one file per command. The only rooms above it are scripts."""
