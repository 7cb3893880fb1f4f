"""The code that runs inside the notebook on Kaggle: standard library only, Python 3.10 or newer.

It checks the kit, installs packages offline, loads models, predicts and writes the submission. A module may
import only from this folder, and its source is pasted into the notebook.
"""
