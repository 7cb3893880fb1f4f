"""The ways to run a program without network and with chosen folders: bubblewrap, unshare, docker, and a weak fallback.

`core.sandbox` chooses the first that works on this machine; each is tried before it is trusted.
"""
