"""The project's own code: packages become wheels, loose modules travel as they are.

Wheels are the same bytes on every machine. It reads the project's files and its pyproject.toml or
setup.cfg.
"""
