"""Kaggle's own client, in a worker process of its own.

Requests get a deadline, a retry policy and typed answers; uploads resume. `worker` is the only file that
imports `kaggle`.
"""
