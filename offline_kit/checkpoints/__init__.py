"""Find, classify, scan and slim trained files.

It gives checkpoints with their hashes, their framework and what their pickles would import, without
executing or unpacking any of them. It needs the user's patterns and, to slim a checkpoint, a Python that
has torch.
"""
