"""Resolve requirements against the image and keep the answer in a committed file.

Every package is bundled, provided by the image or skipped, each with its reason. uv or pip-tools does the
resolving.
"""
