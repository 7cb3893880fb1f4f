"""One module per family of frameworks: how their files are recognized, what loads them, what they need.

`framework_table` lists them in the order in which they are asked. A framework needs only a file's first
bytes, its pickle's globals or its archive's member names.
"""
