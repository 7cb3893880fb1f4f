"""Everything that talks to Kaggle: the client in its worker process, and pushes, runs, submissions and checks over it.

Every call that has an effect is written to a journal first, so that an interrupted command can be repeated.
It needs a kit on disk and credentials, or the address of a local Kaggle.
"""
