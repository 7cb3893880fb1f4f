"""Render the inference notebook and its kernel-metadata.json.

Templates are jinja2 percent scripts; the runtime that they call is pasted into the notebook. Needs a kit, the
notebook's settings and an image.
"""
