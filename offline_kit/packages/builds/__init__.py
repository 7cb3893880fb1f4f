"""Build third-party source distributions, in a sandbox without secrets.

It gives wheels that fit the image, and the pinned closure that builds an sdist offline. It needs a sandbox
and the image's Python.
"""
