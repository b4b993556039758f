"""metalbox and its peers, measured side by side: the same clients, in turn, in one run. See docs/performance.md."""
