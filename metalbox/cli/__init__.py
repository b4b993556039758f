"""The command line tool: thin, speaks REST to a running service. Only `serve`, `lab` and the builders reach below."""
