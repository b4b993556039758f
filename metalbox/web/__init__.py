"""HTTP: for firmware and agents by TCP, for people's tools on a unix socket."""
