"""What every plug-in of a kind must do, as functions that try it: for `lab check-plugin`, and for the project's own plug-ins.

A check takes the options of a plug-in, whose `name` says which one it is, and raises `Broken` with a sentence that says what is
wrong and how to mend it. Each kind has a file here that lists its checks, the quick ones first.
"""
