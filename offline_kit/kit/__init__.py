"""The kit on disk: its manifest, the names of its files, how it is assembled, how two kits differ.

A kit's id depends on its content alone, never on the day or the machine. It needs wheels, own code and
checkpoints, which other rooms make.
"""
