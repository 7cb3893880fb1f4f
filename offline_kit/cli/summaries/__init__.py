"""What each command prints when it is done.

Tables and lines for a person, one object for a script. It needs only the results of the workflows.
"""
