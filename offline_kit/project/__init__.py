"""Facts about a project and about Kaggle: the configuration, images, accelerators, names and rules.

It gives frozen objects that every other room takes as arguments. It needs only files on this disk.
"""
