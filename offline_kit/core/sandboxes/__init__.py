"""The ways to run a program without network and with chosen folders: bubblewrap, unshare, docker, and a weak fallback.

`offline_kit.core.sandbox` chooses the first that works here. Each needs its program on this machine, and is
tried before it is trusted.
"""
