"""The ways to run a program without network and with chosen folders: bubblewrap, and a weak fallback.

`core.sandbox` chooses the first that works on this machine; bubblewrap is tried before it is trusted.
"""
