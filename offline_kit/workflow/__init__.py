"""What a command does, in order: build, rehearse, ship, status, doctor.

It calls the other rooms and skips what has not changed. It needs a configuration and a reporter, and prints
nothing itself.
"""
