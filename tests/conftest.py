"""What holds for all tests."""

import signal

# A run in the background of a script (`.ci/run &`) begins with ^C ignored, and hands that on to the processes that
# the tests start and interrupt. A handler of our own is not handed on: they begin with the system's.
signal.signal(signal.SIGINT, signal.default_int_handler)
