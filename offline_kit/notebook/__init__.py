"""Render the inference notebook and kernel-metadata.json.

Templates are percent scripts in jinja2; the runtime that they call stands in the notebook too. It needs a
kit, the notebook's settings and the image.
"""
