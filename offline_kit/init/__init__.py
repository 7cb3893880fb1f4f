"""Write a first configuration for a project.

It detects requirements, checkpoints, model and data classes, the competition and a template, from names and
syntax alone. It needs the project's folder, and imports none of its code.
"""
