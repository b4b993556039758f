"""TFTP, read-only (RFC 1350, 2347, 2348, 2349, 7440): how firmware without HTTP fetches its first program.

`packet` knows the bytes, `session` one transfer (both pure); `content` reads files, `server` owns the sockets.
"""
