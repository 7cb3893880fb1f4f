"""Write a first configuration for a project.

It detects requirements, checkpoints, model and data classes, the competition and a template, from names and
syntax alone; if asked to, it also runs a script of the project and watches what that uses. It needs the project's
folder, and imports none of its code itself.
"""
