"""Make the wheelhouse on Kaggle's own machine instead of here.

A private notebook with internet resolves, downloads and builds, and its output becomes part of the kit. It
needs an account; here only the result's manifest is kept.
"""
