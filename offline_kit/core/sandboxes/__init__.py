"""The ways to run a program without network and with chosen folders: bubblewrap, containers, and a weak fallback.

`core.sandbox` chooses the first that works on this machine; bubblewrap and engines are tried before they are trusted.
"""
