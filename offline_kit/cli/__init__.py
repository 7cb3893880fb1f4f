"""The command line: parse options, call a workflow, print its result.

It gives tables for people, JSON for scripts, errors with a hint, and the exit codes. The work is done
below; only this room prints.
"""
