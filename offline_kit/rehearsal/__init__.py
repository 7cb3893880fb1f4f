"""Run the notebook as Kaggle would: offline, in a sandbox, with /kaggle/input laid out alike.

It gives a verdict, and for a failure the cell, the cause and the next step. It needs a kit, the
competition's data and a Python close to the image's.
"""
