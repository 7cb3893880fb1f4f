"""Bring a kit to Kaggle and follow it: datasets, models, the notebook, its run, the submission.

A changed part is sent as a whole, an unchanged one not at all; a plan says so before anything is sent. It
needs a kit, a client and a folder for its journal.
"""
