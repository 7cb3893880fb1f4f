"""Take over a notebook that works with the internet on.

It finds what the notebook fetches, installs and reads, decides what becomes of each, and renders the
notebook with a setup cell on top. It needs the image, the project's files and the notebook's own text; it
runs none of it.
"""
