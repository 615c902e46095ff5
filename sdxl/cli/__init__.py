"""The command line: the only package here that prints."""
