"""One module per check of `doctor`.

Each gives findings with a remedy. A check reads and probes; it changes nothing.
"""
