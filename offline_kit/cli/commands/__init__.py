"""One function per command, grouped by what the commands share.

Each parses its options, calls a workflow and hands the result to a summary. Heavy imports stand inside the
functions, so that `--help` is instant.
"""
