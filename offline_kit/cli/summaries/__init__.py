"""What each command prints at its end.

Tables and lines for a person, one object for a script. It needs only the results of the workflows.
"""
