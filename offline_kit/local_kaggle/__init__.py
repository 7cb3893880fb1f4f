"""A Kaggle on this machine for tests, and for people without an account.

The unmodified `kaggle` and `kagglehub` clients can create datasets, models and notebooks, run them and
submit. It needs a folder for its state; notebooks run in the rehearsal's sandbox.
"""
