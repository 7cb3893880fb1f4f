"""From requirements to the wheels that Kaggle's image lacks.

It gives a committed freeze, verified wheels and sdists, and wheels of the project's own code. It needs the
image's package list and, until everything is cached, a package index.
"""
