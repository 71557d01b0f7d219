"""The wire, pure: what the processes of rmbus say to each other, as values and bytes.

`README.md` beside this file is the specification, and `vectors/` are a part of it. No module here does input or output.
"""
