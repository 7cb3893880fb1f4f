"""Build somebody else's source distributions, in a box without secrets.

It gives wheels that fit the image, and the pinned closure that builds an sdist offline. It needs a sandbox
and the image's Python.
"""
